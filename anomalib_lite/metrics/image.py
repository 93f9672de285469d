"""Exact image metrics, and metrics from counts, which pixel metrics share.

auroc, average_precision and f1_max take the numbers of OK and NOK items per value, in ascending order. With one entry
per distinct score the result is exact; with one entry per histogram bin, the values of a bin count as tied.
scikit-learn, the tests' reference, has no AUPRO, takes no counts, and adds most of a second to the start of each
command.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from anomalib_lite.errors import UserError

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")


@dataclass(frozen=True)
class MetricResult:
    """Metrics by name, ready for JSON; None if one cannot be computed."""

    values: dict[str, float | None]
    missing: dict[str, str] = field(default_factory=dict)  # why for each None; "images": which images were left out
    counts: dict[str, int] = field(default_factory=dict)  # of the images, pixels and regions used


def count_ties(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts OK and NOK items (labels True) per distinct score, from scores and labels (N,): (V,) each, ascending."""
    values, group = np.unique(scores, return_inverse=True)
    ok, nok = (np.bincount(group[chosen], minlength=len(values)) for chosen in (~labels, labels))
    return ok, nok


def auroc(ok: np.ndarray, nok: np.ndarray) -> float:
    """Computes the probability that a NOK item ranks above an OK item; ties count half."""
    below = np.cumsum(ok, dtype=np.float64)
    wins = np.dot(nok.astype(np.float64), below - 0.5 * ok)
    return float(wins / (below[-1] * nok.sum(dtype=np.float64)))


def average_precision(ok: np.ndarray, nok: np.ndarray) -> float:
    """Averages, over the NOK items, the precision at their value; no interpolation, as in scikit-learn."""
    detected = from_above(nok)
    flagged = detected + from_above(ok)
    precision = np.divide(detected, flagged, out=np.zeros_like(detected), where=flagged > 0)
    return float(np.dot(nok[::-1].astype(np.float64), precision) / detected[-1])


def f1_max(ok: np.ndarray, nok: np.ndarray) -> float:
    """Computes the best F1 over all thresholds."""
    detected = from_above(nok)
    return float((2 * detected / (from_above(ok) + detected + detected[-1])).max())


def from_above(counts: np.ndarray) -> np.ndarray:
    """Counts items at or above each value, from the largest value down: (V,) float64."""
    return np.cumsum(counts[::-1], dtype=np.float64)


Array = np.ndarray | torch.Tensor
Labels = Array | Sequence[int | None] | None
Names = Sequence[str | None] | None
UNNAMED = "unnamed"  # defect type of NOK images without one


def to_numpy(array: Array | Sequence[float]) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()  # numpy has no bfloat16
    return np.asarray(array)


def one_each(values: Iterable | None, size: int, name: str) -> list:
    """Returns `values` as a list of `size`, or Nones if not given; raises UserError if the number differs."""
    listed = [None] * size if values is None else list(values)
    if len(listed) != size:
        raise UserError(f"A batch of {size} images has {len(listed)} {name}: pass one per image.")
    return listed


def known_labels(labels: Labels, size: int) -> list[int | None]:
    """Returns 0, 1 or None (unknown) for each of `size` images; -1 also means unknown."""
    return [None if label is None or label < 0 else int(label) for label in one_each(labels, size, "labels")]


def image_metrics(scores: np.ndarray, labels: np.ndarray) -> MetricResult:
    """Computes AUROC, average precision and F1-max of finite scores (N,) and labels (N,), 1 = NOK."""
    is_nok = np.asarray(labels, bool)
    counts = {"ok_images": int((~is_nok).sum()), "nok_images": int(is_nok.sum())}
    for kind in ("nok", "ok"):
        if not counts[f"{kind}_images"]:
            reason = f"no {kind.upper()} images with a score"
            return MetricResult(dict.fromkeys(IMAGE_METRICS), dict.fromkeys(IMAGE_METRICS, reason), counts)
    ok, nok = count_ties(np.asarray(scores, np.float64), is_nok)
    values = (auroc(ok, nok), average_precision(ok, nok), f1_max(ok, nok))
    return MetricResult(dict(zip(IMAGE_METRICS, values, strict=True)), {}, counts)


def alarm_metrics(flagged: np.ndarray, labels: np.ndarray) -> MetricResult:
    """Computes false-alarm rate, detection rate and F1 of flags and labels (N,), 1 = NOK."""
    flagged, is_nok = np.asarray(flagged, bool), np.asarray(labels, bool)
    false_alarms, detected = int((flagged & ~is_nok).sum()), int((flagged & is_nok).sum())
    ok, nok = int((~is_nok).sum()), int(is_nok.sum())
    values: dict[str, float | None] = {
        "image_false_alarm_rate": false_alarms / ok if ok else None,
        "image_detection_rate": detected / nok if nok else None,
        "image_f1": 2 * detected / (false_alarms + detected + nok) if nok else None,
    }
    kinds = dict.fromkeys(values, "NOK") | {"image_false_alarm_rate": "OK"}
    return MetricResult(values, {k: f"no {kinds[k]} images" for k, value in values.items() if value is None})


class ImageMetrics:
    """Collects the score of every image."""

    def __init__(self) -> None:
        self.images: list[tuple[float, int | None, str]] = []  # score, label, defect type

    def update(self, scores: Array | Sequence[float], labels: Labels, defects: Names = None) -> None:
        """Adds a batch of scores, labels (0 = OK, 1 = NOK, None or -1 = unknown) and names of defect types, (B,) each.

        Images with unknown label are left out and counted. Raises UserError for scores that are not finite.
        """
        scores = np.asarray(to_numpy(scores), np.float64)
        if not np.isfinite(scores).all():
            raise UserError(
                f"{(~np.isfinite(scores)).sum()} of {len(scores)} image scores are not finite numbers: the "
                "training has probably diverged; lower the learning rate or look at the training loss."
            )
        names = [name or UNNAMED for name in one_each(defects, len(scores), "defect names")]
        self.images += zip(scores.tolist(), known_labels(labels, len(scores)), names, strict=True)

    def compute(self) -> MetricResult:
        """Computes metrics over all labelled images."""
        labelled = [(score, label) for score, label, _ in self.images if label is not None]
        result = image_metrics(*np.array(labelled).reshape(-1, 2).T)
        if unlabelled := len(self.images) - len(labelled):
            result.counts["unlabelled_images"] = unlabelled
            result.missing["images"] = f"{unlabelled} images without a label were left out"
        return result

    def compute_by_defect(self) -> dict[str, MetricResult]:
        """Computes, for each defect type, the metrics of its NOK images against all OK images."""
        ok = [score for score, label, _ in self.images if label == 0]
        results = {}
        for name in sorted({name for _, label, name in self.images if label == 1}):
            nok = [score for score, label, other in self.images if label == 1 and other == name]
            results[name] = image_metrics(np.array(ok + nok), np.repeat([0, 1], [len(ok), len(nok)]))
        return results
