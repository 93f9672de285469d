"""Batches as they come from loaders and detectors, brought to one form for counting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from anomalib_lite.errors import UserError
from anomalib_lite.metrics.bits import to_numpy

Array = np.ndarray | torch.Tensor
Masks = Array | Sequence[Array | None] | None
Labels = Array | Sequence[int | None] | None
UNNAMED = "unnamed"  # the type of NOK images whose defect has no name


def split_batch(array: np.ndarray, what: str) -> np.ndarray:
    """(B, 1, H, W) or (B, H, W) -> (B, H, W)."""
    if array.ndim == 4 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim == 3:
        return array
    raise UserError(f"The {what} of a batch must have shape (B, 1, H, W) or (B, H, W), got {array.shape}.")


def known_labels(labels: Iterable | None, size: int) -> list[int | None]:
    """0, 1 or None (unknown) for each of `size` images; -1 and None both mean unknown."""
    if labels is None:
        return [None] * size
    listed = labels.tolist() if isinstance(labels, Array) else list(labels)
    if len(listed) != size:
        raise UserError(f"A batch of {size} images came with {len(listed)} labels.")
    return [None if label is None or int(label) < 0 else int(bool(label)) for label in listed]


def known_defects(defects: Sequence[str | None] | None, size: int) -> Sequence[str | None]:
    """The defect type, or None, of each of `size` images."""
    if defects is None:
        return [None] * size
    if len(defects) != size:
        raise UserError(f"A batch of {size} images came with {len(defects)} defect names.")
    return defects


def align_masks(masks: Masks, labels: list[int | None], shape: tuple[int, ...]) -> list[np.ndarray | None]:
    """One bool mask (H, W) an image: empty for a good image, None for one that has to be left out.

    labels as `known_labels` gives them, shape (B, H, W) of the maps. Left out are images labelled NOK whose
    mask is None or empty, and images of unknown label without a mask.
    """
    if masks is None:
        masks = [None] * shape[0]
    elif isinstance(masks, Array):
        masks = split_batch(to_numpy(masks), "masks")
    if len(masks) != shape[0]:
        raise UserError(f"A batch of {shape[0]} maps came with {len(masks)} masks.")
    return [_align(mask, label, shape[1:]) for mask, label in zip(masks, labels, strict=True)]


def _align(mask: Array | None, label: int | None, plane: tuple[int, ...]) -> np.ndarray | None:
    if mask is None:
        return np.zeros(plane, bool) if label == 0 else None
    mask = to_numpy(mask).astype(bool, copy=False)
    if mask.ndim == 3 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.shape != plane:
        raise UserError(f"A mask of {mask.shape} does not fit its anomaly map of {plane}: resize one of them.")
    if label == 0 and mask.any():
        raise UserError("An image labelled OK has defect pixels in its mask: correct its label or its mask.")
    return None if label == 1 and not mask.any() else mask
