"""A sweep file: what is varied, what is wanted of it, and the command of a trial."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from anomalib_lite.errors import UserError
from anomalib_lite.sweeps.distributions import Distribution, read_distribution
from anomalib_lite.sweeps.hyperband import Hyperband, read_hyperband

METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
KEYS = (
    "program", "method", "metric", "metrics", "parameters", "early_terminate", "command", "name", "description",
    "project", "entity", "run_cap",
)  # fmt: skip
PROGRAM = "anomalib-lite"


@dataclass(frozen=True)
class Objective:
    """A figure of a run, by its name in metrics.json (`aupro`, `validation/aupro`), status.json or history.csv."""

    name: str
    goal: str

    @property
    def sign(self) -> int:
        """By which a value is multiplied so that smaller is better."""
        return 1 if self.goal == "minimize" else -1


@dataclass(frozen=True)
class Sweep:
    """parameters: by Hydra key, nested ones under dotted keys. fixed: the command's own overrides, of every trial."""

    name: str
    method: str
    objectives: tuple[Objective, ...]
    parameters: Mapping[str, Distribution]
    hyperband: Hyperband | None
    run_cap: int | None
    fixed: tuple[str, ...]
    content: str  # what tells this sweep from others

    @property
    def grid_size(self) -> int:
        return math.prod(len(d.grid() or ()) for d in self.parameters.values())

    def key(self, more: Sequence[str] = ()) -> str:
        """Eight hex digits over what defines the sweep. more: further overrides of every trial."""
        return hashlib.sha256(json.dumps([self.content, list(more)]).encode()).hexdigest()[:8]


def read_sweep(path: Path) -> Sweep:
    """Reads W&B's format, and `metrics`, a list, where several are wanted.

    Errors: UserError that names what is wrong.
    """
    spec = _load(path)
    if unknown := sorted(set(spec) - set(KEYS)):
        raise UserError(f"{path}: unknown: {', '.join(unknown)}. Known: {', '.join(KEYS)}.")
    if spec.get("method") not in METHODS:
        raise UserError(f"{path}: method must be one of {', '.join(METHODS)}, not '{spec.get('method')}'.")
    parameters = _parameters(spec.get("parameters"), path)
    if spec["method"] == "grid":
        for key, distribution in parameters.items():
            if distribution.grid() is None:
                raise UserError(
                    f"{path}: method grid tries every value, and parameter '{key}' ({distribution.kind}) has too many "
                    "to count: list values, or take another method."
                )
    defining = [spec.get(k) for k in ("method", "metric", "metrics", "parameters", "early_terminate", "command")]
    return Sweep(
        name=str(spec.get("name") or path.stem),
        method=spec["method"],
        objectives=_objectives(spec, path),
        parameters=parameters,
        hyperband=read_hyperband(spec.get("early_terminate")),
        run_cap=int(spec["run_cap"]) if spec.get("run_cap") else None,
        fixed=_fixed(spec.get("command"), path),
        content=json.dumps(defining, sort_keys=True),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The sweep file {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(spec, dict):
        raise UserError(f"{path} is no sweep file: it must hold method, metric, parameters and command.")
    return spec


def _parameters(entries: Any, path: Path, prefix: str = "") -> dict[str, Distribution]:
    if not isinstance(entries, Mapping) or not entries:
        raise UserError(f"{path}: {prefix or ''}parameters must hold at least one parameter.")
    found: dict[str, Distribution] = {}
    for key, entry in entries.items():
        if not isinstance(entry, Mapping):
            raise UserError(f"{path}: parameter '{prefix}{key}' must be a mapping, e.g. {{values: [1, 2]}}.")
        if "parameters" in entry:
            found |= _parameters(entry["parameters"], path, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = read_distribution(f"{prefix}{key}", entry)
    return found


def _objectives(spec: Mapping[str, Any], path: Path) -> tuple[Objective, ...]:
    entries = spec.get("metrics") or ([spec["metric"]] if spec.get("metric") else [])
    if not entries or not all(isinstance(e, Mapping) and e.get("name") for e in entries):
        raise UserError(f"{path}: metric needs a name and a goal, e.g. metric: {{name: val_loss, goal: minimize}}.")
    objectives = tuple(Objective(str(e["name"]), e.get("goal", "minimize")) for e in entries)
    for objective in objectives:
        if objective.goal not in GOALS:
            raise UserError(f"{path}: the goal of {objective.name} must be minimize or maximize.")
    return objectives


def _fixed(command: Any, path: Path) -> tuple[str, ...]:
    """The command's overrides, without the program, its verb and the macros that stand for the parameters."""
    words = [str(word) for word in command or ()]
    start = next((i for i, word in enumerate(words) if Path(word).name == PROGRAM), None)
    if start is None or words[start + 1 : start + 2] != ["train"]:
        raise UserError(
            f"{path}: command must start a training: ['${{env}}', {PROGRAM}, train, further overrides, "
            "'${args_json}']."
        )
    return tuple(word for word in words[start + 2 :] if not word.startswith("${"))
