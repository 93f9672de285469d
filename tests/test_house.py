"""The house: data goes one way through the rooms, no two modules need each other, and nothing grows over a screen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.commands import REPOSITORY

PACKAGE = REPOSITORY / "anomalib_lite"
ROOMS = (  # in the data's way: a room imports those before it
    "libraries", "errors", "web", "settings", "runs", "metrics", "registration", "rendering", "data", "augment",
    "backbones", "scoring", "generators", "detectors", "export", "defects", "annotate", "report", "comparison",
    "sweeps", "engine", "serve", "jobs", "api", "cli",
)  # fmt: skip
SCREEN = 60  # lines of a function


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(name: str, path: Path, at_start: bool = False) -> Iterator[str]:
    """The package's modules that a module imports; at_start: only what happens when it is imported itself."""
    known = modules()
    nodes = _run_at_import(tree(path)) if at_start else ast.walk(tree(path))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("anomalib_lite"):
            assert node.level == 0, f"{name} imports by a relative path"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in known)


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _run_at_import(child)


def room(name: str) -> str:
    return [*name.split("."), "errors"][1]


def test_every_room_imports_earlier_rooms_alone() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in imports(name, path)
        if "anomalib_lite" not in (name, other) and ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert not wrong


def test_only_the_data_and_the_demo_know_the_built_in_product() -> None:
    users = {
        name
        for name, path in modules().items()
        if any(room(other) == "rendering" for other in imports(name, path)) and room(name) != "rendering"
    }
    assert users <= {"anomalib_lite.data.panels", "anomalib_lite.jobs.demo"}


def test_no_two_modules_need_each_other() -> None:
    graph = {name: {o for o in imports(name, path) if o != name} for name, path in modules().items()}
    assert {*TopologicalSorter(graph).static_order()} >= {*modules()}  # a CycleError names the circle


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_file_is_one_idea_and_a_function_a_screen(name: str) -> None:
    path = modules()[name]
    assert len(path.read_text().splitlines()) <= 400
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < SCREEN, f"{name}: {node.name}"


def test_configurations_are_read_at_the_top_alone() -> None:
    """Below the verbs, engine/build.py turns a configuration into objects, and nothing else sees one."""
    allowed = ("jobs", "settings", "cli", "sweeps", "comparison")
    readers = {
        name
        for name, path in modules().items()
        if "DictConfig" in path.read_text() and room(name) not in allowed and name != "anomalib_lite.engine.build"
    }
    assert not readers
    assert not [name for name, path in modules().items() if 'get("_target_")' in path.read_text()]
