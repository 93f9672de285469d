"""What a threshold that was fixed beforehand does on the test set.

Everywhere in this project an image or pixel is flagged where its value > threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anomalib_lite.metrics.bits import first_above
from anomalib_lite.metrics.result import MetricResult

ALARM_METRICS = ("image_false_alarm_rate", "image_detection_rate", "image_f1")
PIXEL_ALARM_METRICS = ("pixel_false_alarm_rate", "pixel_detection_rate", "pixel_f1", "region_overlap")


def alarm_metrics(scores: np.ndarray, labels: np.ndarray, threshold: float) -> MetricResult:
    """False-alarm rate among OK images, detection rate among NOK images, and F1, where score > threshold.

    scores (N,), labels (N,) bool or 0/1, 1 = NOK. counts holds the images of each class and how many of them
    are flagged, for confidence intervals.
    """
    nok = np.asarray(labels, bool)
    flagged = np.asarray(scores, np.float64) > threshold
    totals = int((~nok).sum()), int(nok.sum())
    hits = int((flagged & ~nok).sum()), int((flagged & nok).sum())
    rates, missing = _rates(hits, totals, ALARM_METRICS, ("no OK images", "no NOK images"))
    names = ("ok_images", "nok_images", "ok_flagged", "nok_flagged")
    return MetricResult(rates, missing, dict(zip(names, totals + hits, strict=True)))


def pixel_alarm_metrics(histograms: np.ndarray, threshold: float) -> MetricResult:
    """False-alarm rate among OK pixels, detection rate and F1 of defect pixels, mean overlap of the regions.

    histograms (3, BINS) of PixelMetrics; the threshold is rounded up to the end of its bin.
    """
    totals = histograms.sum(axis=1).tolist()
    hits = histograms[:, first_above(threshold) :].sum(axis=1).tolist()
    names, reasons = PIXEL_ALARM_METRICS[:3], ("no OK pixels", "no defect pixels")
    rates, missing = _rates(hits[:2], totals[:2], names, reasons)
    rates["region_overlap"] = hits[2] / totals[2] if totals[2] else None
    if not totals[2]:
        missing["region_overlap"] = reasons[1]
    counts = ("ok_pixels", "nok_pixels", "ok_flagged", "nok_flagged")
    return MetricResult(rates, missing, dict(zip(counts, totals[:2] + hits[:2], strict=True)))


def _rates(
    hits: Sequence[int], totals: Sequence[int], names: tuple[str, ...], reasons: tuple[str, str]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """False-alarm rate, detection rate and F1 under `names`, from (OK, NOK) counts; reasons for each None."""
    false_alarm, detection, f1 = names
    values: dict[str, float | None] = dict.fromkeys(names)
    missing = {}
    if totals[0]:
        values[false_alarm] = hits[0] / totals[0]
    else:
        missing[false_alarm] = reasons[0]
    if totals[1]:
        values |= {detection: hits[1] / totals[1], f1: 2 * hits[1] / (sum(hits) + totals[1])}
    else:
        missing |= dict.fromkeys((detection, f1), reasons[1])
    return values, missing
