"""Weights & Biases, or nothing but the run folder's own files."""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)
KINDS = ("wandb", "csv", "none")

Table = tuple[list[str], list[list[Any]]]


class Tracker:
    """Does nothing: the run folder's own files hold everything. `logger` is what Lightning gets."""

    logger: Any = False

    def log_result(
        self, metrics: Mapping[str, Any], pictures: Sequence[tuple[str, np.ndarray]], defects: Table | None = None
    ) -> None:
        """metrics: as in metrics.json. pictures: caption and uint8 RGB (H, W, 3). defects: columns and rows."""


class WandbTracker(Tracker):
    """One Weights & Biases run, whose files lie in the run folder."""

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        mode = cfg.tracking.mode or os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        self.logger = WandbLogger(
            name=folder.name,
            project=cfg.tracking.project,
            group=cfg.tracking.group,
            save_dir=folder,
            settings=wandb.Settings(mode=mode, silent=True, console="off", x_disable_stats=True),
        )
        # Lightning hands on a setting that nobody gave, and of which wandb then warns
        getattr(self.logger, "_wandb_init", {}).pop("anonymous", None)
        self.logger.experiment.config.update(OmegaConf.to_container(cfg, resolve=True))

    def log_result(
        self, metrics: Mapping[str, Any], pictures: Sequence[tuple[str, np.ndarray]], defects: Table | None = None
    ) -> None:
        import wandb

        run = self.logger.experiment
        run.summary.update(_flat(metrics))
        if pictures:
            run.log({"images": [wandb.Image(pixels, caption=caption) for caption, pixels in pictures]})
        if defects and defects[1]:
            columns, rows = defects
            run.log({"defects": wandb.Table(columns=columns, data=rows)})


@contextmanager
def tracked(cfg: DictConfig, folder: Path) -> Iterator[Tracker]:
    """The tracker of a run; it is finished when the block ends, so that the next job of a sweep gets its own run."""
    kind = cfg.tracking.kind
    if kind not in KINDS:
        raise UserError(f"tracking.kind must be one of {', '.join(KINDS)}, not '{kind}'.")
    if kind != "wandb":
        yield Tracker()
        return
    import wandb

    tracker, code = WandbTracker(cfg, folder), 1
    try:
        yield tracker
        code = 0
    finally:
        wandb.finish(exit_code=code)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].rstrip("/")
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}/")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat
