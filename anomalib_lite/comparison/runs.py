"""Runs as a comparison reads them: where they lie, what each was and measured, or why it does not count."""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from anomalib_lite.conf_dir import conf_dir
from anomalib_lite.errors import UserError

MARKS = ("status.json", "config.yaml")  # a run's folder has one of them from its first moments on
COSTS = ("train_seconds", "ms_per_image", "model_mb")


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
                f"{text} {there} (looked from {Path.cwd()}). Name run folders, folders that hold them or a "
                "glob, e.g. runs=runs/augmentation or runs='[runs/a, runs/b/*-s0-*]'."
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
    if (place / "multirun.yaml").is_file():
        place = _experiment_of(place)
    for folder, inner, _ in os.walk(place):
        if is_run(Path(folder)):
            inner.clear()
            yield Path(folder)
        inner.sort()


def _experiment_of(multirun: Path) -> Path:
    """The folder in which a multirun's jobs wrote their runs, side by side with other runs of the same experiment."""
    settings = yaml.safe_load((multirun / "multirun.yaml").read_text())["hydra"]
    chosen = dict(o.lstrip("+").partition("=")[::2] for o in settings["overrides"]["task"])
    preset = conf_dir() / "experiment" / f"{chosen.get('experiment')}.yaml"
    usual = yaml.safe_load(preset.read_text()) if preset.is_file() else {}
    return multirun.parents[1] / (chosen.get("experiment_name") or usual.get("experiment_name") or "default")


@dataclass(frozen=True)
class Run:
    """`trouble` says why the run does not count; None where it does. `values`: metrics and costs by name."""

    folder: Path
    name: str
    state: str
    trouble: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    seed: int = 0
    fingerprint: str | None = None
    machine: str = ""
    commit: str = ""
    finished: str = ""
    values: dict[str, float] = field(default_factory=dict)


def read_run(folder: Path) -> Run:
    """Never fails: a run that was killed, or whose files are damaged, says so."""
    inside = is_run(folder.parent)  # a later evaluation of the training around it
    name = f"{folder.parent.name}/{folder.name}" if inside else folder.name
    state = "unfinished"
    try:
        status = _json(folder / "status.json")
        state = str(status.get("state", state)).replace("running", state)
        if state != "done":
            return Run(folder, name, state, _why(state, status))
        config = yaml.safe_load((folder / "config.yaml").read_text())
        environment, metrics = _json(folder / "environment.json"), _json(folder / "metrics.json")
        training = folder.parent if inside else Path(config.get("run") or folder)
        asked = environment if training == folder else _json(training / "environment.json")
    except FileNotFoundError as error:  # killed between two files, or in its first moments
        return Run(folder, name, state, f"{Path(error.filename).name} is missing")
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        return Run(folder, name, "unreadable", f"cannot be read: {error}".splitlines()[0])
    values = _metrics(metrics)
    if not any(map(math.isfinite, values.values())):
        return Run(folder, name, state, "metrics.json holds no figure: there were no labelled test images")
    return Run(
        folder,
        name,
        state,
        config=config,
        choices=_choices(asked, config),
        overrides=asked.get("overrides") or [],
        seed=int(config.get("seed", 0)),
        fingerprint=environment.get("data_fingerprint"),
        machine=", ".join(str(environment[key]) for key in ("gpu", "cpu") if environment.get(key)),
        commit=str(environment.get("git_commit") or "")[:7],
        finished=str(status.get("finished", "")),
        values=values | {key: _number(status.get(key)) for key in COSTS},
    )


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds no mapping")
    return value


def _why(state: str, status: Mapping[str, Any]) -> str:
    if state == "unfinished":
        return f"still running, or killed: started {status.get('started', 'at an unknown time')}"
    return (str(status.get("error", "")).strip().splitlines() or ["it left no message"])[0]


def _choices(environment: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Config group -> option; of `backbone=timm` the network's name."""
    choices = {group: str(option) for group, option in (environment.get("choices") or {}).items() if option is not None}
    if choices.get("backbone") == "timm":
        choices["backbone"] = str(config["backbone"]["name"])
    return choices


def _metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of all images, and the image AUROC of each defect type; what was not measured is NaN."""
    nested = ("per_defect", "missing", "counts", "threshold")
    flat = {k: _number(v) for k, v in metrics.items() if k not in nested and not k.endswith("_threshold")}
    defects = metrics.get("per_defect") or {}
    return flat | {f"{name}_image_auroc": _number(row.get("image_auroc")) for name, row in defects.items()}


def _number(value: Any) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known else math.nan
