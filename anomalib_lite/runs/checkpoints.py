"""Checkpoints that a training goes on from."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch

from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)


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
