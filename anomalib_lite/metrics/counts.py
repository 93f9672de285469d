"""Metrics from counts: how many OK and NOK items share each distinct value.

Every function takes counts by ascending value. With one entry a distinct score the result is exact; with one entry a
histogram bin all values of a bin count as tied. Images and pixels share these functions. scikit-learn, against which
they are tested, has no AUPRO, takes no counts, and adds most of a second to the start of every command.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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


def f1_max(ok: np.ndarray, nok: np.ndarray) -> float:
    """Best F1 over all thresholds."""
    found = _descend(nok)
    return float((2 * found / (_descend(ok) + found + found[-1])).max())


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


Array = np.ndarray | torch.Tensor
Labels = Array | Sequence[int | None] | None
Names = Sequence[str | None] | None
UNNAMED = "unnamed"  # the type of NOK images whose defect has no name


def to_numpy(array: Array | Sequence[float]) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()  # numpy has no bfloat16
    return np.asarray(array)


def one_each(values: Iterable | None, size: int, what: str) -> list:
    """`values` as a list of `size`, of None where they are not given. Errors: UserError for another number of them."""
    listed = [None] * size if values is None else list(values)
    if len(listed) != size:
        raise UserError(f"A batch of {size} images came with {len(listed)} {what}.")
    return listed


def known_labels(labels: Labels, size: int) -> list[int | None]:
    """0, 1 or None (unknown) for each of `size` images; -1 and None both mean unknown."""
    return [None if label is None or label < 0 else int(label) for label in one_each(labels, size, "labels")]
