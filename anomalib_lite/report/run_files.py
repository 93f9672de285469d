"""What a run left in its folder, read with patience: what is missing or broken leaves its part empty."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from anomalib_lite.errors import UserError
from anomalib_lite.report.cases import ScoredImage, read_predictions

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run folder; `threshold` and the like are looked up in `metrics`."""

    path: Path
    config: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    history: pd.DataFrame | None = None
    predictions: list[ScoredImage] = field(default_factory=list)

    @property
    def image_threshold(self) -> float:
        """Infinite where the run has none: then nothing is judged NOK."""
        return _threshold(self.metrics, "image")

    @property
    def pixel_threshold(self) -> float:
        return _threshold(self.metrics, "pixel")


def read_run(run_dir: str | Path) -> RunFiles:
    """Reads a run folder; of a run that failed early most parts are empty."""
    path = Path(run_dir)
    if not path.is_dir():
        raise UserError(f"{path} is not a folder. Give the run's folder, which holds config.yaml and metrics.json.")
    return RunFiles(
        path=path,
        config=_text(path / "config.yaml"),
        environment=_object(path / "environment.json"),
        status=_object(path / "status.json"),
        metrics=_object(path / "metrics.json"),
        history=_history(path / "history.csv"),
        predictions=_predictions(path / "predictions.csv"),
    )


def _threshold(metrics: dict[str, Any], name: str) -> float:
    threshold = metrics.get("threshold")
    value = threshold.get(name) if isinstance(threshold, dict) else None
    return float(value) if isinstance(value, int | float) else float("inf")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path) or "{}")
    except json.JSONDecodeError as error:
        _log.warning("%s is not valid JSON (%s); its part of the page stays empty.", path, error)
        return {}
    return value if isinstance(value, dict) else {}


def _history(path: Path) -> pd.DataFrame | None:
    try:
        return pd.read_csv(path) if path.is_file() else None
    except ValueError as error:  # also what pandas raises for a file that is empty or no text
        _log.warning("%s cannot be read (%s); the page has no training curves.", path, error)
        return None


def _predictions(path: Path) -> list[ScoredImage]:
    try:
        return read_predictions(path) if path.is_file() else []
    except (UserError, ValueError, csv.Error) as error:
        _log.warning("%s cannot be read (%s); the page has no scores.", path, error)
        return []
