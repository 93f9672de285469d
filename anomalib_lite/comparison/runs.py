"""Finds and reads the runs of a comparison: configuration, metrics and costs, or why a run does not count."""

import glob
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from anomalib_lite.errors import UserError
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.settings import conf_dir

MARKS = ("status.json", "config.yaml")  # a run folder has one of them from its start
COSTS = ("train_seconds", "ms_per_image", "model_mb")


def find_runs(patterns: Iterable[str | Path]) -> list[Path]:
    """Returns the folders of all runs that match the patterns, without duplicates, sorted by path.

    Runs inside a run folder, e.g. its later evaluations, are found only if a pattern names them. Raises UserError if a
    pattern matches nothing, or no run.
    """
    folders: set[Path] = set()
    for pattern in patterns:
        text = os.path.expanduser(str(pattern))
        places = [Path(text)] if os.path.exists(text) else [Path(p) for p in glob.glob(text, recursive=True)]
        runs = {run.resolve() for place in places for run in _below(place)}
        if not runs:
            problem = "contains no run" if places else "does not exist"
            raise UserError(
                f"{text} {problem} (relative to {Path.cwd()}). Name run folders, folders that contain them or a "
                "glob, e.g. runs=runs/augmentation or runs='[runs/a, runs/b/*-s0-*]'."
            )
        folders |= runs
    if not folders:
        raise UserError("runs is empty: give a folder of runs, e.g. runs=runs/augmentation.")
    return sorted(folders)


def common_folder(runs: Iterable[Path]) -> Path:
    """Returns the deepest folder that contains all runs."""
    return Path(os.path.commonpath([run.absolute().parent for run in runs]))


def _is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def _below(place: Path) -> Iterator[Path]:
    """Yields the run folders below a folder; for a multirun's folder, those of its experiment, which lie elsewhere."""
    if (place / "multirun.yaml").is_file():
        settings = yaml.safe_load((place / "multirun.yaml").read_text())["hydra"]
        chosen = dict(o.lstrip("+").partition("=")[::2] for o in settings["overrides"]["task"])
        preset = conf_dir() / "experiment" / f"{chosen.get('experiment')}.yaml"
        defaults = yaml.safe_load(preset.read_text()) if preset.is_file() else {}
        place = place.parents[1] / (chosen.get("experiment_name") or defaults.get("experiment_name") or "default")
    for folder, inner, _ in os.walk(place):
        if _is_run(Path(folder)):
            inner.clear()
            yield Path(folder)


@dataclass(frozen=True)
class Run:
    """A run of the comparison."""

    folder: Path
    name: str
    state: str
    trouble: str | None = None  # why the run does not count
    config: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)  # group -> option; for `backbone=timm` the network's name
    overrides: list[str] = field(default_factory=list)
    seed: int = 0
    fingerprint: str | None = None
    machine: str = ""
    commit: str = ""
    finished: str = ""
    tested: int | None = None  # number of test images
    values: dict[str, float] = field(default_factory=dict)  # metrics and costs by name


def read_run(folder: Path) -> Run:
    """Reads a run; `trouble` says if it was killed or if its files are damaged."""
    inside = _is_run(folder.parent)  # a later evaluation, inside the folder of its training
    without = partial(Run, folder, f"{folder.parent.name}/{folder.name}" if inside else folder.name)
    run = RunFolder(folder)
    parts, status = {"status.json": run.status}, run.status
    state = str(status.get("state", "unfinished")).replace("running", "unfinished")
    if state == "done":
        parts |= {"config.yaml": run.config, "environment.json": run.environment, "metrics.json": run.metrics}
    if run.damaged:
        return without("unreadable", f"{run.damaged[0]} is damaged")
    if missing := [file for file, content in parts.items() if not content]:
        return without(state, f"{missing[0]} is missing")
    if state == "unfinished":
        return without(state, f"still running, or killed: started {status.get('started', 'at an unknown time')}")
    if state != "done":
        return without(state, (str(status.get("error", "")).strip() or "it left no message").splitlines()[0])
    values, counts = _metrics(parts["metrics.json"]), parts["metrics.json"].get("counts") or {}
    if not any(map(math.isfinite, values.values())):
        return without(state, "metrics.json contains no metric: there were no labelled test images")
    config, environment = parts["config.yaml"], parts["environment.json"]
    training = folder.parent if inside else Path(config.get("run") or folder)
    recorded = environment if training == folder else RunFolder(training).environment
    choices = {group: str(option) for group, option in (recorded.get("choices") or {}).items() if option is not None}
    if choices.get("backbone") == "timm":
        choices["backbone"] = str(config["backbone"]["name"])
    return without(
        state,
        config=config,
        choices=choices,
        overrides=recorded.get("overrides") or [],
        seed=int(config.get("seed", 0)),
        fingerprint=environment.get("data_fingerprint"),
        machine=", ".join(str(environment[key]) for key in ("gpu", "cpu") if environment.get(key)),
        commit=_program(environment),
        finished=str(status.get("finished", "")),
        tested=sum(counts.get(key, 0) for key in ("ok_images", "nok_images")) or None,
        values=values | {key: _number(status.get(key)) for key in COSTS},
    )


def _program(environment: Mapping[str, Any]) -> str:
    """Returns the commit, with + for a changed checkout, or without one the version; empty if neither is recorded."""
    digits, plus, _ = str(environment.get("git_commit") or "").partition("+")
    version = (environment.get("packages") or {}).get("anomalib_lite")
    return digits[:7] + plus or (f"v{version}" if version else "")


def _metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics over all images, and the image AUROC of each defect type; NaN if not measured."""
    plain = {k: _number(v) for k, v in metrics.items() if not (isinstance(v, dict | list) or k.endswith("_threshold"))}
    defects = metrics.get("per_defect") or {}
    return plain | {f"{name}_image_auroc": _number(row.get("image_auroc")) for name, row in defects.items()}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
