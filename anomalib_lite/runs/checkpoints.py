"""Checkpoints that a training goes on from, and the end of one that has diverged."""

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
    """A checkpoint takes the place of the one before in one step: a kill while it is written leaves that one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_path(Path(path)) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


def resumable(checkpoints: Path) -> Path | None:
    """The last epoch's checkpoint, where there is a whole one; torn ones are removed.

    Errors: UserError where a file holds code.
    """
    last = checkpoints / "last.ckpt"
    if not last.is_file():
        return None
    try:
        for file in checkpoints.glob("*.ckpt"):
            torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling makes of half a file
        if "GLOBAL" in str(error):
            raise UserError(
                f"{file} holds code, which no checkpoint of ours does: it is not run. Delete {checkpoints}, and "
                "find out who wrote there."
            ) from error
        log.warning("%s is torn (%s): the training starts anew", file, type(error).__name__)
        shutil.rmtree(checkpoints)
        return None
    log.info("resuming the training from %s", last)
    return last


def diverged_batch(training: Path) -> Path:
    """The file beside a training's folder for `stop_where_diverged`: the folder itself goes with a failed training."""
    return training.with_name(f"diverged{training.name}.safetensors")


def stop_where_diverged(loss: Tensor | float, images: Tensor, kept: Path, when: str, remedy: str) -> None:
    """Errors: UserError where the loss is NaN or infinite; the batch (B, 3, H, W) lies in the file `kept` then."""
    if math.isfinite(value := loss.item() if isinstance(loss, Tensor) else loss):
        return
    with atomic_path(kept) as temporary:
        save_file({"image": images.detach().cpu().contiguous()}, temporary)
    raise UserError(
        f"The loss became {value} in {when}: the training has diverged. {remedy}, or take trainer.precision=32-true. "
        f"The batch is in {kept}."
    )
