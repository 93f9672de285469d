"""Image metrics: AUROC, average precision and F1-max, exact, and the rates at a threshold that was fixed before."""

from collections.abc import Sequence

import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.metrics.counts import (
    UNNAMED,
    Array,
    Labels,
    MetricResult,
    Names,
    absent,
    auroc,
    average_precision,
    count_ties,
    f1_max,
    known_labels,
    one_each,
    to_numpy,
)

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")


def image_metrics(scores: np.ndarray, labels: np.ndarray) -> MetricResult:
    """AUROC, average precision and F1-max of finite scores (N,); labels (N,) bool or 0/1, 1 = NOK."""
    nok_mask = np.asarray(labels, bool)
    counts = {"ok_images": int((~nok_mask).sum()), "nok_images": int(nok_mask.sum())}
    for kind in ("nok", "ok"):
        if not counts[f"{kind}_images"]:
            return absent(IMAGE_METRICS, f"no {kind.upper()} images with a score", counts)
    _, ok, nok = count_ties(np.asarray(scores, np.float64), nok_mask)
    values = (auroc(ok, nok), average_precision(ok, nok), f1_max(ok, nok))
    return MetricResult(dict(zip(IMAGE_METRICS, values, strict=True)), {}, counts)


def alarm_metrics(flagged: np.ndarray, labels: np.ndarray) -> MetricResult:
    """False-alarm rate among OK images, detection rate among NOK images, and F1.

    Args:
        flagged: (N,) bool.
        labels: (N,) bool or 0/1, 1 = NOK.
    """
    flagged, nok = np.asarray(flagged, bool), np.asarray(labels, bool)
    false_alarms, found = int((flagged & ~nok).sum()), int((flagged & nok).sum())
    values: dict[str, float | None] = {
        "image_false_alarm_rate": false_alarms / int((~nok).sum()) if not nok.all() else None,
        "image_detection_rate": found / int(nok.sum()) if nok.any() else None,
        "image_f1": 2 * found / (false_alarms + found + int(nok.sum())) if nok.any() else None,
    }
    missing = {name: "no NOK images" for name, value in values.items() if value is None}
    if nok.all():
        missing["image_false_alarm_rate"] = "no OK images"
    return MetricResult(values, missing)


class ImageMetrics:
    """Collects the score of every image: one float each, so exact metrics cost nothing to keep."""

    def __init__(self) -> None:
        self.images: list[tuple[float, int | None, str]] = []  # score, label, defect type

    def update(self, scores: Array | Sequence[float], labels: Labels, defects: Names = None) -> None:
        """Adds a batch; images of unknown label are left out and counted.

        Args:
            scores: (B,).
            labels: (B,) 0 = OK, 1 = NOK, None or -1 = unknown.
            defects: (B,) names of types, or None.

        Raises:
            UserError: a score that is not finite, or parts of different length.
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
        """Metrics over all labelled images."""
        known = [(score, label) for score, label, _ in self.images if label is not None]
        result = image_metrics(*np.array(known).reshape(-1, 2).T)
        if unlabelled := len(self.images) - len(known):
            result.counts["unlabelled_images"] = unlabelled
            result.missing["images"] = f"{unlabelled} images without a label were left out"
        return result

    def compute_by_defect(self) -> dict[str, MetricResult]:
        """For each defect type: its NOK images against all OK images."""
        ok = [score for score, label, _ in self.images if label == 0]
        types: dict[str, list[float]] = {}
        for score, label, name in self.images:
            if label == 1:
                types.setdefault(name, []).append(score)
        return {
            name: image_metrics(np.array(ok + nok), np.repeat([0, 1], [len(ok), len(nok)]))
            for name, nok in sorted(types.items())
        }
