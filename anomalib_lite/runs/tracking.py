"""Weights & Biases, or nothing but the run folder's own files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)
KINDS = ("wandb", "csv", "none")
STATUS_FIGURES = ("ms_per_image", "model_mb", "train_seconds")  # of status.json, tracked beside the metrics


@dataclass(frozen=True)
class Findings:
    """What a run found, for whoever tracks it.

    metrics: as in metrics.json. pictures: by their heading, caption and uint8 RGB (H, W, 3). defects: columns and rows.
    curves: by name, the points' x and y with the words on their axes. files: by kind (`model`, `report`), what stays
    in the run folder as it is.
    """

    metrics: Mapping[str, Any]
    pictures: Mapping[str, Sequence[tuple[str, np.ndarray]]] = field(default_factory=dict)
    defects: tuple[list[str], list[list[Any]]] | None = None
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, str, str]] = field(default_factory=dict)
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)


class Tracker:
    """Does nothing: the run folder's own files hold everything. `logger` is what Lightning gets."""

    logger: Any = False

    def log_result(self, findings: Findings) -> None:
        """At the end of a run, or of a part of it."""

    def log_history(self, file: Path) -> None:
        """The losses of a training that was done before, by another run: its history.csv."""


@contextmanager
def tracked(cfg: DictConfig, folder: Path) -> Iterator[Tracker]:
    """The tracker of a run; it is finished when the block ends, so that the next job of a sweep gets its own run."""
    kind = cfg.tracking.kind
    if kind not in KINDS:
        raise UserError(f"tracking.kind must be one of {', '.join(KINDS)}, not '{kind}'.")
    if kind != "wandb" or _is_helper():
        yield Tracker()
        return
    from anomalib_lite.runs.wandb_run import WandbTracker

    tracker, code = WandbTracker(cfg, folder), 1
    try:
        yield tracker
        code = 0
    finally:
        tracker.finish(code)


def track_again(cfg: DictConfig, folder: Path, metrics: Mapping[str, Any], status: Mapping[str, Any]) -> None:
    """Reports a run that was done before, where a W&B agent asked for it: its sweep waits for the result."""
    if cfg.tracking.kind != "wandb":
        return
    from anomalib_lite.runs.wandb_run import of_agent

    if of_agent():
        with tracked(cfg, folder) as tracker:
            tracker.log_history(folder / "history.csv")
            tracker.log_result(Findings(with_status(metrics, status)))


def with_status(metrics: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    return {**metrics, **{name: status[name] for name in STATUS_FIGURES if name in status}}


def _is_helper() -> bool:
    """Whether this is one of several processes of one training, and not the first."""
    from lightning.pytorch.utilities import rank_zero_only

    return bool(rank_zero_only.rank)
