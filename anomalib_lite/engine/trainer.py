"""Lightning's Trainer as configured: its device is every method's, whether it trains or not."""

import csv
import logging
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
from anomalib_lite.runs.atomic import atomic_path
from anomalib_lite.runs.checkpoints import WholeCheckpoints

# its import makes these loggers talk about hardware and its makers' services, and prints warnings twice
logging.getLogger("lightning").handlers.clear()
for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)

LOST = ("by peer", "remote process", "NCCL")  # what a process says when another has gone
MakeTrainer = Callable[..., Trainer]  # with the configured arguments


def make_trainer(
    configured: MakeTrainer, callbacks: Sequence[Callback] = (), logger: Any = None, **more: Any
) -> Trainer:
    """The Trainer with callbacks and loggers beside the configured ones.

    Errors: UserError for a device, a strategy or a precision that cannot be had here.
    """
    given = dict(getattr(configured, "keywords", {}))
    loggers = [*_listed(given.get("logger")), *_listed(logger)]
    if not given.get("plugins"):
        # each training is of one machine, a Slurm job's, too
        more["plugins"] = [LightningEnvironment(), WholeCheckpoints()]
    try:
        trainer = configured(
            **more,
            callbacks=[*_listed(given.get("callbacks")), *callbacks],
            logger=loggers or False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError, ModuleNotFoundError) as error:
        words = " ".join(str(error).split())
        asked = ", ".join(f"{key}={given[key]}" for key in ("accelerator", "devices", "strategy") if given.get(key))
        raise UserError(
            f"trainer ({asked}) cannot be had here: {words} Take trainer=cpu, or a device that is here."
        ) from error
    if given.get("sync_batchnorm") and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise UserError("Batch statistics are shared by GPUs alone: on CPUs take trainer.sync_batchnorm=false.")
    if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher) and trainer.world_size > 1:
        raise UserError(
            f"trainer.strategy={given.get('strategy')} starts the whole command once more for each device. Take "
            "trainer.strategy=ddp_spawn, which starts the training alone."
        )
    return trainer


class Devices(NamedTuple):
    """first: where a model is put. shared: whether several processes train one model."""

    first: torch.device
    shared: bool


def devices_of(configured: MakeTrainer) -> Devices:
    """Those that the Trainer would take. Errors: see `make_trainer`."""
    trainer = make_trainer(configured, enable_checkpointing=False, enable_progress_bar=False)
    return Devices(trainer.strategy.root_device, trainer.world_size > 1)


def fit_model(trainer: Trainer, module: LightningModule, *loaders: Any, **more: Any) -> None:
    """`trainer.fit`. Errors: UserError for batches that batch normalisation cannot work with, for a process of several
    that was killed, and where one of them raised it.
    """
    try:
        trainer.fit(module, *loaders, **more)
    except (ProcessExitedException, ProcessRaisedException) as error:
        _, raised, said = str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")
        if raised:
            raise UserError(said.strip()) from error
        if isinstance(error, ProcessRaisedException) and not any(sign in str(error) for sign in LOST):
            raise
        told = str(error).strip().splitlines()[-1]
        raise UserError(
            f"A process of the training was ended ({told}): the same command goes on from the last epoch."
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "Batch normalisation needs more than one value of each channel, and a batch of one small image leaves one: "
            "take a batch_size of 2 or more, or a larger image_size."
        ) from error


class OnDevice:
    """A loader whose batches come on a device."""

    def __init__(self, batches: DataLoader[Batch], device: torch.device) -> None:
        self.batches, self.device, self.dataset = batches, device, cast(ImageSet, batches.dataset)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return (batch.to(self.device) for batch in self.batches)


def prepare_process(seed: int, threads: int | None = None) -> None:
    """Seeds Python, numpy, torch and the loaders' workers, and sets the CPU's threads."""
    lightning.seed_everything(seed, workers=True, verbose=False)
    if threads:
        torch.set_num_threads(threads)


def _listed(value: Any) -> list[Any]:
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


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
