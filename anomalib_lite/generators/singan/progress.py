"""A bar with the scale and its losses, and the losses as the loggers get them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from anomalib_lite.generators.singan.scale_training import ScaleTraining

EVERY = 10  # iterations between two values


class Progress(Callback):
    """One scale's. The loggers' step runs on over the scales, and `<name>/scale` says which it is."""

    def __init__(self, name: str, scale: int, scales: int, step: int, loggers: Sequence[Any]) -> None:
        self._name, self._scale, self._scales, self._step, self._loggers = name, scale, scales, step, loggers

    def on_train_start(self, trainer: Trainer, module: ScaleTraining) -> None:
        height, width = module.real.shape[-2:]
        title = f"singan {self._name}, scale {self._scale + 1}/{self._scales} ({height} x {width} px)"
        self._bar = tqdm(total=int(trainer.num_training_batches), desc=title, unit="iteration", leave=False)

    def on_train_batch_end(self, trainer: Trainer, module: ScaleTraining, *_: Any) -> None:
        self._bar.update()
        done = self._bar.n
        if done % EVERY and done != self._bar.total:
            return
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in module.losses.items()})
        values = {f"singan {self._name}/{name}": value for name, value in module.losses.items()}
        for logger in self._loggers:
            logger.log_metrics(values | {f"singan {self._name}/scale": self._scale}, step=self._step + done)

    def on_train_end(self, trainer: Trainer, module: ScaleTraining) -> None:
        self._bar.close()

    def on_exception(self, *_: Any) -> None:
        self._bar.close()
