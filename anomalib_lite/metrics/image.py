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
    known_defects,
    known_labels,
    to_numpy,
)

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max", "image_f1_max_threshold")
ALARM_METRICS = ("image_false_alarm_rate", "image_detection_rate", "image_f1")


def image_metrics(scores: np.ndarray, labels: np.ndarray) -> MetricResult:
    """AUROC, average precision, F1-max, and a threshold at which F1 is that.

    The threshold lies half-way between the last flagged score and the next one below.

    Args:
        scores: (N,) finite.
        labels: (N,) bool or 0/1, 1 = NOK.
    """
    scores, nok_mask = np.asarray(scores, np.float64), np.asarray(labels, bool)
    counts = {"ok_images": int((~nok_mask).sum()), "nok_images": int(nok_mask.sum())}
    for kind in ("nok", "ok"):
        if not counts[f"{kind}_images"]:
            return absent(IMAGE_METRICS, f"no {kind.upper()} images with a score", counts)
    values, ok, nok = count_ties(scores, nok_mask)
    f1, lowest = f1_max(ok, nok)
    if lowest == 0:  # a threshold that flags values[lowest:] and nothing else under `value > threshold`
        threshold = float(np.nextafter(values[0], -np.inf))
    else:
        below, above = values[lowest - 1], values[lowest]
        middle = below + (above - below) / 2
        threshold = float(middle if middle < above else below)
    results: dict[str, float | None] = {
        "image_auroc": auroc(ok, nok),
        "image_ap": average_precision(ok, nok),
        "image_f1_max": f1,
        "image_f1_max_threshold": threshold,
    }
    return MetricResult(results, {}, counts)


def alarm_metrics(scores: np.ndarray, labels: np.ndarray, threshold: float) -> MetricResult:
    """False-alarm rate among OK images, detection rate among NOK images, and F1, where score > threshold.

    The counts hold the images of each class and how many of them are flagged, for confidence intervals.

    Args:
        scores: (N,).
        labels: (N,) bool or 0/1, 1 = NOK.
        threshold: from elsewhere.
    """
    nok, flagged = np.asarray(labels, bool), np.asarray(scores, np.float64) > threshold
    totals = int((~nok).sum()), int(nok.sum())
    hits = int((flagged & ~nok).sum()), int((flagged & nok).sum())
    rates: dict[str, float | None] = dict.fromkeys(ALARM_METRICS)
    missing = {}
    if totals[0]:
        rates["image_false_alarm_rate"] = hits[0] / totals[0]
    else:
        missing["image_false_alarm_rate"] = "no OK images"
    if totals[1]:
        f1 = 2 * hits[1] / (hits[0] + hits[1] + totals[1])
        rates |= {"image_detection_rate": hits[1] / totals[1], "image_f1": f1}
    else:
        missing |= dict.fromkeys(("image_detection_rate", "image_f1"), "no NOK images")
    names = ("ok_images", "nok_images", "ok_flagged", "nok_flagged")
    return MetricResult(rates, missing, dict(zip(names, totals + hits, strict=True)))


class ImageMetrics:
    """Collects the score of every image: one float each, so exact metrics cost nothing to keep."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.labels: list[int] = []
        self.defects: list[str | None] = []
        self.unlabelled = 0

    def update(self, scores: Array | Sequence[float], labels: Labels, defects: Names = None) -> None:
        """Adds a batch; images of unknown label are left out and counted.

        Args:
            scores: (B,).
            labels: (B,) 0 = OK, 1 = NOK, None or -1 = unknown.
            defects: (B,) names of types, or None.

        Raises:
            UserError: a score that is not finite, or parts of different length; nothing of such a batch is kept.
        """
        scores = np.asarray(to_numpy(scores), np.float64)
        known = known_labels(labels, len(scores))
        names = known_defects(defects, len(scores))
        if not np.isfinite(scores).all():
            raise UserError(
                f"{(~np.isfinite(scores)).sum()} of {len(scores)} image scores are not finite numbers: the "
                "training has probably diverged; lower the learning rate or look at the training loss."
            )
        for score, label, name in zip(scores.tolist(), known, names, strict=True):
            if label is None:
                self.unlabelled += 1
                continue
            self.scores.append(score)
            self.labels.append(label)
            self.defects.append((name or UNNAMED) if label else None)

    def compute(self) -> MetricResult:
        """Metrics over all labelled images."""
        result = image_metrics(np.array(self.scores), np.array(self.labels))
        if self.unlabelled:
            result.counts["unlabelled_images"] = self.unlabelled
            result.missing["images"] = f"{self.unlabelled} images without a label were left out"
        return result

    def compute_by_defect(self) -> dict[str, MetricResult]:
        """For each defect type: its NOK images against all OK images."""
        scores, names = np.array(self.scores), np.array(self.defects, dtype=object)
        ok = np.array(self.labels) == 0
        results = {}
        for name in sorted({defect for defect in self.defects if defect}):
            used = ok | (names == name)
            results[name] = image_metrics(scores[used], ~ok[used])
        return results
