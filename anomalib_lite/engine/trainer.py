"""Creates Lightning's Trainer from the configuration; methods without training also use its device."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning
import torch
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.utils.data import DataLoader

from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import Batch
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import write_csv
from anomalib_lite.runs.checkpoints import WholeCheckpoints

# Lightning logs hardware and advertisements at INFO, and its handler would print warnings twice
logging.getLogger("lightning").handlers.clear()
for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)

LOST = ("by peer", "remote process", "NCCL")  # in error messages of a process that lost the connection to another
MakeTrainer = Callable[..., Trainer]  # a partial with the configured arguments


def make_trainer(
    configured: MakeTrainer, callbacks: Sequence[Callback] = (), logger: Any = None, **more: Any
) -> Trainer:
    """Creates the Trainer with callbacks and loggers in addition to the configured ones.

    Raises UserError for a device, strategy or precision that is not available on this machine.
    """
    arguments = dict(getattr(configured, "keywords", {}))
    loggers = [*_listed(arguments.get("logger")), *_listed(logger)]
    if not arguments.get("plugins"):
        # a training runs on one machine, even inside a Slurm job
        more["plugins"] = [LightningEnvironment(), WholeCheckpoints()]
    try:
        trainer = configured(
            **more,
            callbacks=[*_listed(arguments.get("callbacks")), *callbacks],
            logger=loggers or False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split())
        chosen = ", ".join(
            f"{key}={arguments[key]}" for key in ("accelerator", "devices", "strategy") if arguments.get(key)
        )
        raise UserError(
            f"trainer ({chosen}) is not available here: {reason} Use trainer=cpu, or a device of this machine."
        ) from error
    if arguments.get("sync_batchnorm") and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise UserError("Only GPUs can share batch statistics: on CPUs use trainer.sync_batchnorm=false.")
    if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher) and trainer.world_size > 1:
        raise UserError(
            f"trainer.strategy={arguments.get('strategy')} would start the whole command again for each device. Use "
            "trainer.strategy=ddp_spawn, which only starts the training again."
        )
    return trainer


class Devices(NamedTuple):
    """first: the device that models run on. shared: whether several processes train one model."""

    first: torch.device
    shared: bool


def devices_of(configured: MakeTrainer) -> Devices:
    """Returns the devices that the Trainer would use; raises as `make_trainer` does."""
    trainer = make_trainer(configured, enable_checkpointing=False, enable_progress_bar=False)
    return Devices(trainer.strategy.root_device, trainer.world_size > 1)


def fit_model(trainer: Trainer, module: LightningModule, *loaders: Any, **more: Any) -> None:
    """Calls `trainer.fit`; raises UserError if a batch is too small, or a training process was killed or raised it."""
    try:
        trainer.fit(module, *loaders, **more)
    except (ProcessExitedException, ProcessRaisedException) as error:
        _, is_user_error, message = str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")
        if is_user_error:
            raise UserError(message.strip()) from error
        if isinstance(error, ProcessRaisedException) and not any(phrase in str(error) for phrase in LOST):
            raise
        last_line = str(error).strip().splitlines()[-1]
        raise UserError(
            f"A training process was killed ({last_line}): the same command resumes after the last finished epoch."
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "Batch normalisation needs more than one value per channel, but a batch of one small image has only one: "
            "use a batch_size of 2 or more, or a larger image_size."
        ) from error


class OnDevice:
    """Wraps a loader and moves its batches to a device."""

    def __init__(self, batches: DataLoader[Batch], device: torch.device) -> None:
        self.batches, self.device, self.dataset = batches, device, cast(ImageSet, batches.dataset)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return (batch.to(self.device) for batch in self.batches)


def prepare_process(seed: int, threads: int | None = None) -> None:
    """Seeds Python, numpy, torch and the loaders' workers, and sets the number of CPU threads."""
    lightning.seed_everything(seed, workers=True, verbose=False)
    if threads:
        torch.set_num_threads(threads)


def _listed(value: Any) -> list[Any]:
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


class History(Callback):
    """Writes history.csv, one row of losses per epoch; each time the whole file, so that it is never incomplete."""

    def __init__(self, path: Path) -> None:
        self.path, self._begin, self._earlier = path, time.perf_counter(), 0.0
        self.rows: list[dict[str, Any]] = []

    @property
    def seconds(self) -> float:
        """Returns the duration of the training so far, with that of earlier processes whose checkpoint it resumes."""
        return self._earlier + time.perf_counter() - self._begin

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self._earlier = list(state_dict["rows"]), state_dict.get("seconds", 0.0)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        losses = {k: float(v) for k, v in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append({"epoch": trainer.current_epoch + 1, **losses, "learning_rate": rate})
        if not trainer.is_global_zero:
            return
        columns = list(self.rows[0])
        write_csv(self.path, [columns, *([row.get(name, "") for name in columns] for row in self.rows)])
