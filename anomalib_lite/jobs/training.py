"""OK images -> a trained and calibrated detector; an interrupted training goes on from its last epoch."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.model import Model
from anomalib_lite.jobs.inference import device_of, image_size
from anomalib_lite.jobs.inputs import Inputs
from anomalib_lite.jobs.together import Together, forget, processes, trainer_settings
from anomalib_lite.runs.artifacts import artifact, artifact_key
from anomalib_lite.runs.atomic import atomic_path, write_json
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
        if not trainer.is_global_zero:
            return
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


def train_detector(
    cfg: DictConfig, run: RunFolder, detector: Model, train: ImageSet, val: ImageSet, inputs: Inputs, logger: Any
) -> bool:
    """Statistics of the OK images, the student's training if the detector has one, and the calibration.

    Generated images and the template take part in the training alone; statistics are of real images. Runs that differ
    only in what comes after the training (`Method.after_training`, scoring, tta) train once: the trained weights are
    an artifact. Returns whether its curves are still to be tracked.
    """
    device = device_of(cfg)
    in_order = OnDevice(loader(train.first(inputs.real), cfg.batch_size), device)
    with run.stage("prepare"):
        detector.to(device).prepare(in_order)
    made = True
    if detector.method.epochs:
        trained = Path(cfg.paths.artifacts) / f"trained-{_training_key(cfg, detector, inputs)}"
        with run.stage("train"):
            made = artifact(
                trained, lambda folder: _train(cfg, run, detector, train, val, logger, folder), replace=cfg.force
            )
        if not made:
            log.info("trained before: %s", trained)
            with atomic_path(run.path / "history.csv") as temporary:
                shutil.copyfile(trained / "history.csv", temporary)
        detector.method.load_state_dict(load_file(trained / "weights.safetensors"), strict=False)
        run.status["train_seconds"] = json.loads((trained / "seconds.json").read_text())
    with run.stage("calibrate"):
        detector.to(device).calibrate(in_order)  # Lightning takes it back to the CPU
    run.status |= detector.method.notes
    return not made or processes(cfg) > 1


class OnDevice:
    """A loader whose batches come on the detector's device."""

    def __init__(self, batches: DataLoader[Batch], device: torch.device) -> None:
        self.batches, self.device, self.dataset = batches, device, batches.dataset

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return (batch.to(self.device) for batch in self.batches)


def _training_key(cfg: DictConfig, detector: Model, inputs: Inputs) -> str:
    settings: Any = OmegaConf.to_container(cfg.detector, resolve=True)
    settings = {key: value for key, value in settings.items() if key not in detector.method.after_training}
    shared = [OmegaConf.to_container(cfg[key], resolve=True) for key in ("backbone", "trainer")]
    augment = OmegaConf.to_container(cfg.augment, resolve=True) if detector.augment else None
    return artifact_key(
        settings, *shared, augment, image_size(cfg), cfg.batch_size, cfg.seed, cfg.keep, inputs.data, inputs.key
    )


def _train(
    cfg: DictConfig, run: RunFolder, detector: Model, train: ImageSet, val: ImageSet, logger: Any, folder: Path
) -> None:
    begin = time.perf_counter()
    _fit(cfg, run, detector, train, val, logger)
    tensors = {name: value.detach().cpu().contiguous() for name, value in detector.method.trained_state().items()}
    save_file(tensors, folder / "weights.safetensors")
    shutil.copy(run.path / "history.csv", folder)
    write_json(folder / "seconds.json", round(time.perf_counter() - begin, 3))


def _fit(cfg: DictConfig, run: RunFolder, detector: Model, train: ImageSet, val: ImageSet, logger: Any) -> None:
    folder = run.path / "checkpoints"
    # each epoch, whatever its loss: Lightning's save_last waits for the monitored value to improve
    checkpoints = [ModelCheckpoint(folder, filename="last", enable_version_counter=False)]
    if cfg.keep == "best":  # before the last, which remembers for a resumed training which epoch was the best
        best = ModelCheckpoint(folder, filename="best", monitor="val_loss", enable_version_counter=False)
        checkpoints.insert(0, best)
    callbacks = [History(run.path / "history.csv"), *checkpoints, TQDMProgressBar(refresh_rate=1)]
    count = processes(cfg)
    trainer = Trainer(
        **trainer_settings(cfg, len(train)),
        max_epochs=detector.method.epochs,
        callbacks=[*callbacks, Together(count)] if count > 1 else callbacks,
        logger=logger if count == 1 else False,  # a tracker belongs to the process that opened it
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
    forget()
    if cfg.keep == "best":
        kept = torch.load(folder / "best.ckpt", map_location="cpu", weights_only=False)
        detector.load_state_dict(kept["state_dict"])
