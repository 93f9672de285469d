"""OK images -> a trained and calibrated detector; an interrupted training goes on from its last epoch."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from omegaconf import DictConfig

from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.detectors.base import Detector
from anomalib_lite.runs.atomic import atomic_path
from anomalib_lite.runs.folder import RunFolder

log = logging.getLogger(__name__)


class History(Callback):
    """history.csv: one row an epoch with the losses; rewritten whole, so that it is never torn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        losses = {k: float(v) for k, v in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append({"epoch": trainer.current_epoch + 1, **losses, "learning_rate": rate})
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


def train_detector(
    cfg: DictConfig, run: RunFolder, detector: Detector, train: ImageSet, val: ImageSet, logger: Any
) -> None:
    """Statistics of the OK images, the student's training if the detector has one, and the calibration."""
    in_order = loader(train, cfg.batch_size)
    with run.stage("prepare"):
        detector.prepare(in_order)
    if detector.epochs:
        with run.stage("train"):
            _fit(cfg, run, detector, train, val, logger)
    with run.stage("calibrate"):
        detector.calibrate(in_order)
    run.status |= detector.notes


def _fit(cfg: DictConfig, run: RunFolder, detector: Detector, train: ImageSet, val: ImageSet, logger: Any) -> None:
    folder = run.path / "checkpoints"
    checkpoint = ModelCheckpoint(
        folder, filename="best", monitor="val_loss", save_last=True, enable_version_counter=False
    )
    trainer = Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=cfg.trainer.devices,
        precision=cfg.trainer.precision,
        max_epochs=detector.epochs,
        callbacks=[History(run.path / "history.csv"), checkpoint, TQDMProgressBar(refresh_rate=1)],
        logger=logger,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        default_root_dir=run.path,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
    last = folder / "last.ckpt"
    if last.is_file():
        log.info("resuming the training from %s", last)
    trainer.fit(
        detector,
        loader(train, cfg.batch_size, shuffle_seed=cfg.seed),
        loader(val, cfg.batch_size),
        ckpt_path=last if last.is_file() else None,
        weights_only=False,  # our own file: optimizer state and history
    )
    if trainer.interrupted:
        raise KeyboardInterrupt
    if cfg.keep == "best" and checkpoint.best_model_path:
        detector.load_state_dict(torch.load(checkpoint.best_model_path, weights_only=False)["state_dict"])
