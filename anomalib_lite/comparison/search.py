"""Where runs lie: folders of runs, folders of such folders, globs, and the record of a multirun."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from anomalib_lite.conf_dir import conf_dir
from anomalib_lite.errors import UserError

MARKS = ("status.json", "config.yaml")  # a run's folder has one of them from its first moments on
RECORD = "multirun.yaml"


def find_runs(patterns: Iterable[str | Path]) -> list[Path]:
    """The folders of all runs that the patterns name, each once, in order of their paths.

    What lies inside a run's folder, e.g. its later evaluations, is found only where a pattern names it.
    Errors: UserError for a pattern that names nothing, or nothing that holds a run.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        text = os.path.expanduser(str(pattern))
        places = [Path(text)] if os.path.exists(text) else [Path(p) for p in sorted(glob.glob(text, recursive=True))]
        runs = [run for place in places for run in _below(place)]
        if not runs:
            there = "holds no run" if places else "does not exist"
            raise UserError(
                f"{text} {there} (looked from {Path.cwd()}). Name run folders, folders that hold them or a glob, "
                "e.g. runs=runs/augmentation or runs='[runs/a, runs/b/*-s0-*]'."
            )
        found |= {run.resolve(): None for run in runs}
    if not found:
        raise UserError("runs names nothing: give a folder of runs, e.g. runs=runs/augmentation.")
    return sorted(found)


def common_folder(runs: Iterable[Path]) -> Path:
    """The folder below which all of them lie."""
    return Path(os.path.commonpath([run.absolute().parent for run in runs]))


def is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def _below(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        return
    if (place / RECORD).is_file():
        yield from _below(_experiment_of(place))
        return
    for folder, inner, _ in os.walk(place):
        if is_run(Path(folder)):
            inner.clear()
            yield Path(folder)
        inner.sort()


def _experiment_of(multirun: Path) -> Path:
    """The folder in which a multirun's jobs wrote their runs, side by side with other runs of the same experiment."""
    settings = yaml.safe_load((multirun / RECORD).read_text())["hydra"]
    chosen = dict(o.lstrip("+").partition("=")[::2] for o in settings["overrides"]["task"])
    name = chosen.get("experiment_name")
    if name is None and "experiment" in chosen:
        preset = conf_dir() / "experiment" / f"{chosen['experiment']}.yaml"
        name = (yaml.safe_load(preset.read_text()) if preset.is_file() else {}).get("experiment_name")
    return multirun.parents[1] / (name or "default")
