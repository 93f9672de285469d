"""Metrics from counts: how many OK and NOK items share each distinct value.

Every function takes counts by ascending value. With one entry a distinct score the result is exact; with one entry a
histogram bin all values of a bin count as tied. Images and pixels share these functions. scikit-learn, against which
they are tested, has no AUPRO, takes no counts, and adds most of a second to the start of every command.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from anomalib_lite.errors import UserError


@dataclass(frozen=True)
class MetricResult:
    """Metrics by name, ready for JSON.

    Attributes:
        values: a number, or None where it cannot be had.
        missing: the reason for each None, and for each kind of image that was left out ("images").
        counts: images, pixels and regions that were used.
    """

    values: dict[str, float | None]
    missing: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"values": dict(self.values), "missing": dict(self.missing), "counts": dict(self.counts)}


def absent(names: Sequence[str], reason: str, counts: dict[str, int]) -> MetricResult:
    """All `names` without a value, for one reason."""
    return MetricResult(dict.fromkeys(names), dict.fromkeys(names, reason), counts)


def count_ties(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups equal scores.

    Args:
        scores: (N,).
        labels: (N,) bool, True = NOK.

    Returns:
        The distinct values (V,) ascending, and how many OK and NOK items have each, (V,) both.
    """
    values, group = np.unique(scores, return_inverse=True)
    total = np.bincount(group, minlength=len(values))
    nok = np.bincount(group[labels], minlength=len(values))
    return values, total - nok, nok


def auroc(ok: np.ndarray, nok: np.ndarray) -> float:
    """Probability that a NOK item ranks above an OK item, ties counting half."""
    below = np.cumsum(ok, dtype=np.float64)
    wins = np.dot(nok.astype(np.float64), below - 0.5 * ok)
    return float(wins / (below[-1] * nok.sum(dtype=np.float64)))


def average_precision(ok: np.ndarray, nok: np.ndarray) -> float:
    """Mean over the NOK items of the precision at their own value (no interpolation, as scikit-learn)."""
    found = _descend(nok)
    flagged = found + _descend(ok)
    precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0)
    return float(np.dot(nok[::-1].astype(np.float64), precision) / found[-1])


def f1_max(ok: np.ndarray, nok: np.ndarray) -> tuple[float, int]:
    """Best F1 over all thresholds, and the index of the smallest value that is still flagged there.

    Of several thresholds with the same F1 the largest is taken: it flags the fewest.
    """
    found = _descend(nok)
    f1 = 2 * found / (_descend(ok) + found + found[-1])
    best = int(np.argmax(f1))
    return float(f1[best]), len(f1) - 1 - best


def aupro(ok: np.ndarray, overlap: np.ndarray, limit: float) -> float:
    """Area under the mean per-region overlap over the false-positive rates up to `limit`, divided by it.

    The curve starts at (0, 0) and is cut at the limit by linear interpolation. Bergmann et al., "The MVTec Anomaly
    Detection Dataset", IJCV 2021, section 4.3.

    Args:
        ok: counts of defect-free pixels.
        overlap: each defect pixel weighted by 1 / size of its region (any common factor).
        limit: in (0, 1].
    """
    rate = np.concatenate([[0.0], _descend(ok)])
    pro = np.concatenate([[0.0], _descend(overlap)])
    rate, pro = rate / rate[-1], pro / pro[-1]
    inside = int(np.searchsorted(rate, limit, side="right"))
    if inside < len(rate):
        step = (limit - rate[inside - 1]) / (rate[inside] - rate[inside - 1])
        cut = pro[inside - 1] + step * (pro[inside] - pro[inside - 1])
        rate, pro = np.append(rate[:inside], limit), np.append(pro[:inside], cut)
    return float(np.trapezoid(pro, rate) / limit)


def _descend(counts: np.ndarray) -> np.ndarray:
    """Items at or above each value, from the largest value down: (V,) float64."""
    return np.cumsum(counts[::-1], dtype=np.float64)


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
