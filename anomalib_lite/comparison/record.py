"""One run as a comparison reads it: what it was, what it measured, or why it does not count."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from anomalib_lite.comparison.choices import choices_of
from anomalib_lite.comparison.search import is_run

COSTS = ("train_seconds", "ms_per_image", "model_mb")


@dataclass(frozen=True)
class Run:
    """`trouble` says why the run does not count; None where it does. `values`: metrics and costs by name."""

    folder: Path
    name: str
    state: str
    trouble: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    overrides: list[str] | None = None
    seed: int = 0
    fingerprint: str | None = None
    machine: str = ""
    commit: str = ""
    finished: str = ""
    values: dict[str, float] = field(default_factory=dict)


def read_run(folder: Path) -> Run:
    """Never fails: a run that was killed, or whose files are damaged, says so."""
    name = f"{folder.parent.name}/{folder.name}" if is_run(folder.parent) else folder.name
    state = "unfinished"
    try:
        status = _json(folder / "status.json")
        state = str(status.get("state", state))
        if state != "done":
            return Run(folder, name, _word(state), _why(state, status))
        config = yaml.safe_load((folder / "config.yaml").read_text())
        environment, metrics = _json(folder / "environment.json"), _json(folder / "metrics.json")
        training = _training(folder, config)
        asked = _json(training / "environment.json") if training != folder else environment
    except FileNotFoundError as error:  # killed between two files, or in its first moments
        return Run(folder, name, _word(state), f"{Path(error.filename).name} is missing")
    except (OSError, ValueError, yaml.YAMLError) as error:
        return Run(folder, name, "unreadable", f"cannot be read: {error}".splitlines()[0])
    values = _numbers(metrics) | {key: _number(status.get(key)) for key in COSTS}
    if not isinstance(config, dict) or not any(math.isfinite(values[key]) for key in values if key not in COSTS):
        return Run(folder, name, "done", "metrics.json holds no figure: there were no labelled test images")
    return Run(
        folder,
        name,
        state,
        None,
        config,
        choices_of(training.name, asked, config),
        asked.get("overrides"),
        int(config.get("seed", environment.get("seed", 0))),
        environment.get("data_fingerprint"),
        ", ".join(str(environment[key]) for key in ("gpu", "cpu") if environment.get(key)),
        str(environment.get("git_commit") or "")[:7],
        str(status.get("finished", "")),
        values,
    )


def _training(folder: Path, config: Any) -> Path:
    """The folder of the training that was evaluated, where the run is a later evaluation."""
    evaluated = config.get("run") if isinstance(config, dict) else None
    if not evaluated:
        return folder
    return folder.parent if is_run(folder.parent) else Path(evaluated)


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds no mapping")
    return value


def _word(state: str) -> str:
    return "unfinished" if state == "running" else state


def _why(state: str, status: Mapping[str, Any]) -> str:
    if state == "failed":
        return (str(status.get("error", "")).strip().splitlines() or ["failed without a message"])[0]
    return f"still running, or killed: started {status.get('started', 'at an unknown time')}"


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of all images, and the image AUROC of each defect type; what was not measured is NaN."""
    nested = ("per_defect", "missing", "counts", "threshold")
    flat = {k: _number(v) for k, v in metrics.items() if k not in nested and not k.endswith("_threshold")}
    defects = metrics.get("per_defect") or {}
    return flat | {f"{name}_image_auroc": _number(row.get("image_auroc")) for name, row in defects.items()}


def _number(value: Any) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known else math.nan
