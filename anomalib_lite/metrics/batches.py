"""Batches of maps, labels and masks, brought to one form for counting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from anomalib_lite.errors import UserError

SHIFT = 11
BINS = 1 << (31 - SHIFT)
_LARGEST_FINITE = 0x7F7FFFFF


Array = np.ndarray | torch.Tensor
Masks = Array | Sequence[Array | None] | None
Labels = Array | Sequence[int | None] | None
Names = Sequence[str | None] | None
UNNAMED = "unnamed"  # the type of NOK images whose defect has no name


def to_numpy(array: Array | Sequence[float]) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()  # numpy has no bfloat16
    return np.asarray(array)


def planes(array: np.ndarray, what: str) -> np.ndarray:
    """(B, 1, H, W) or (B, H, W) -> (B, H, W)."""
    if array.ndim == 4 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim == 3:
        return array
    raise UserError(f"The {what} of a batch must have shape (B, 1, H, W) or (B, H, W), got {array.shape}.")


def known_labels(labels: Labels, size: int) -> list[int | None]:
    """0, 1 or None (unknown) for each of `size` images; -1 and None both mean unknown."""
    listed = _of_size(labels.tolist() if isinstance(labels, Array) else labels, size, "labels")
    return [None if label is None or int(label) < 0 else int(bool(label)) for label in listed]


def known_defects(defects: Names, size: int) -> list[str | None]:
    """The defect type, or None, of each of `size` images."""
    return _of_size(defects, size, "defect names")


def align_masks(masks: Masks, labels: list[int | None], shape: tuple[int, ...]) -> list[np.ndarray | None]:
    """One bool mask (H, W) an image: empty for a good image, None for one that has to be left out.

    Left out are images labelled NOK whose mask is None or empty, and images of unknown label without a mask.

    Args:
        masks: as `PixelMetrics.update` takes them.
        labels: as `known_labels` gives them.
        shape: (B, H, W) of the maps.
    """
    if isinstance(masks, Array):
        masks = planes(to_numpy(masks), "masks")
    listed = _of_size(masks, shape[0], "masks")
    aligned: list[np.ndarray | None] = []
    for mask, label in zip(listed, labels, strict=True):
        if mask is None:
            aligned.append(np.zeros(shape[1:], bool) if label == 0 else None)
            continue
        defect = to_numpy(mask).astype(bool, copy=False)
        defect = defect[0] if defect.ndim == 3 and defect.shape[0] == 1 else defect
        if defect.shape != shape[1:]:
            raise UserError(
                f"A mask of {defect.shape} does not fit its anomaly map of {shape[1:]}: resize one of them."
            )
        if label == 0 and defect.any():
            raise UserError("An image labelled OK has defect pixels in its mask: correct its label or its mask.")
        aligned.append(None if label == 1 and not defect.any() else defect)
    return aligned


def _of_size(values: Iterable | None, size: int, what: str) -> list:
    listed = [None] * size if values is None else list(values)
    if len(listed) != size:
        raise UserError(f"A batch of {size} images came with {len(listed)} {what}.")
    return listed


def float_bits(maps: Array) -> np.ndarray:
    """Bits of every pixel as uint32, of the maps' shape; float32 maps are checked, not copied.

    Raises UserError unless every pixel is finite and >= 0.
    """
    values = to_numpy(maps).astype(np.float32, copy=False)
    bits = np.ascontiguousarray(values).view(np.uint32)
    if bits.size and bits.max() > _LARGEST_FINITE:  # NaN, infinity or a sign bit
        problems = {"NaN": np.isnan(values), "infinite": np.isinf(values), "negative": values < 0}
        if found := ", ".join(f"{bad.sum()} {name}" for name, bad in problems.items() if bad.any()):
            raise UserError(
                f"An anomaly map holds bad pixels ({found}, of {values.size}). Maps must be finite and >= 0: NaN "
                "or infinite values mean that the training has diverged (lower the learning rate), negative ones "
                "that the detector must shift or square its distance."
            )
        bits = np.abs(values).view(np.uint32)  # only -0.0 is left
    return bits


def to_bins(bits: np.ndarray) -> np.ndarray:
    """Bin in [0, BINS) of each float, as the index type."""
    return (bits >> SHIFT).astype(np.intp)


def just_below(index: int) -> float:
    """Largest value below a bin: `value > just_below(i)` holds for the bins i and above, and for no other."""
    lowest = np.array(index << SHIFT, np.uint32).view(np.float32)
    return float(np.nextafter(lowest, np.float32(-np.inf)))
