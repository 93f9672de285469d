"""Checkpoints to resume a training from, and the check for diverged losses."""

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import save_file
from torch import Tensor

from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path

log = logging.getLogger(__name__)


class WholeCheckpoints(TorchCheckpointIO):
    """Replaces checkpoints atomically, so that a kill during the writing keeps the previous one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_path(Path(path)) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


def resumable(checkpoints: Path) -> Path | None:
    """Returns the last epoch's checkpoint; None where there is none or one is damaged, which removes them all.

    Raises UserError if a file contains code.
    """
    last = checkpoints / "last.ckpt"
    if not last.is_file():
        return None
    try:
        for file in checkpoints.glob("*.ckpt"):
            torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a damaged file can raise anything
        if "GLOBAL" in str(error):
            raise UserError(
                f"{file} contains code, which this program's checkpoints never do: it was not run. Delete "
                f"{checkpoints}, and find out who wrote the file."
            ) from error
        log.warning("%s is damaged (%s): the training starts again from the beginning", file, type(error).__name__)
        shutil.rmtree(checkpoints)
        return None
    log.info("resuming the training from %s", last)
    return last


def diverged_batch(training: Path) -> Path:
    """Returns a file for `stop_where_diverged` beside the training's folder, which a failure removes."""
    return training.with_name(f"diverged{training.name}.safetensors")


def stop_where_diverged(loss: Tensor | float, images: Tensor, kept: Path, when: str, remedy: str) -> None:
    """Raises UserError if the loss is NaN or infinite, after saving the batch (B, 3, H, W) to the file `kept`."""
    if math.isfinite(value := loss.item() if isinstance(loss, Tensor) else loss):
        return
    with atomic_path(kept) as temporary:
        save_file({"image": images.detach().cpu().contiguous()}, temporary)
    raise UserError(
        f"The loss became {value} in {when}: the training has diverged. {remedy}, or use trainer.precision=32-true. "
        f"The batch is saved in {kept}."
    )
