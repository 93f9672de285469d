"""ROC, precision-recall and per-region-overlap curves, of images and of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from anomalib_lite.report import ink
from anomalib_lite.report.cases import Judged

Points = Mapping[str, tuple[np.ndarray, np.ndarray]]
_MOST_POINTS = 400
_PIXEL_CURVES = {
    "roc": ("ROC of pixels", "false-positive rate", "recall", "AUROC", "pixel_auroc", 1.0),
    "pr": ("Precision and recall of pixels", "recall", "precision", "AP", "pixel_ap", 1.0),
    "pro": ("Per-region overlap", "false-positive rate", "overlap", "AUPRO", "aupro", 0.3),
}


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in the unit square, the words on the axes, and the area metric that belongs to them."""

    name: str
    title: str
    x: np.ndarray
    y: np.ndarray
    x_label: str
    y_label: str
    metric: str
    area: float | None = None
    operating_point: tuple[float, float] | None = None
    x_limit: float = 1.0


def image_curves(predictions: Sequence[Judged], threshold: float, metrics: Mapping[str, Any]) -> list[Curve]:
    """ROC and precision-recall of the images, with the point at which the threshold works.

    Empty unless there are both OK and NOK images.
    """
    known = [item for item in predictions if item.label is not None and np.isfinite(item.score)]
    labels = np.array([bool(item.label) for item in known], dtype=bool)
    scores = np.array([item.score for item in known], dtype=float)
    if not labels.any() or labels.all():
        return []
    above = scores > threshold
    recall, false_alarms = above[labels].mean(), above[~labels].mean()
    at_roc, at_precision = (false_alarms, recall), (recall, labels[above].mean() if above.any() else 1.0)
    rates, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    precisions, recalls, _ = precision_recall_curve(labels, scores)
    names = ("roc", "precision_recall")
    words, other_words = ("false-alarm rate", "recall", "AUROC"), ("recall", "precision", "AP")
    auroc, ap = metrics.get("image_auroc"), metrics.get("image_ap")
    return [
        Curve(names[0], "ROC of images", rates, hits, *words, auroc, at_roc),
        Curve(names[1], "Precision and recall of images", recalls, precisions, *other_words, ap, at_precision),
    ]


def pixel_curves(points: Points, metrics: Mapping[str, Any]) -> list[Curve]:
    """Curves of pixels from points (x, y) under the names 'roc', 'pr' and 'pro'; see `pixel_points`."""
    curves = []
    for name, (title, x_label, y_label, metric, key, limit) in _PIXEL_CURVES.items():
        if points.get(name) is not None:
            x, y = (np.asarray(axis, dtype=float) for axis in points[name])
            area = metrics.get(key)
            curves.append(Curve(f"pixel_{name}", title, x, y, x_label, y_label, metric, area, x_limit=limit))
    return curves


def pixel_points(ok: np.ndarray, nok: np.ndarray, overlap: np.ndarray) -> Points:
    """Curve points from histograms over the map's value, all (bins,) by ascending value.

    Counts of OK and of defect pixels, and the defect pixels weighted by 1 / size of their region. Thinned to
    a few hundred points. Empty where there are no OK or no defect pixels.
    """
    used = np.flatnonzero(ok + nok)[::-1]
    flagged_ok, found, covered = (np.cumsum(counts[used], dtype=float) for counts in (ok, nok, overlap))
    if not len(used) or not flagged_ok[-1] or not found[-1]:
        return {}
    start = np.zeros(1)
    rate, recall = np.append(start, flagged_ok / flagged_ok[-1]), np.append(start, found / found[-1])
    points = {"roc": (rate, recall), "pr": (found / found[-1], found / (found + flagged_ok))}
    if covered[-1]:
        points["pro"] = (rate, np.append(start, covered / covered[-1]))
    return {name: _thin(x, y) for name, (x, y) in points.items()}


def curve_figure(curve: Curve) -> Figure:
    """One curve with the area under it filled."""
    drawing, axis = ink.figure(4.2, 3.4)
    order = np.argsort(curve.x, kind="stable")
    axis.fill_between(curve.x[order], curve.y[order], color=ink.OK, alpha=0.10, linewidth=0)
    axis.plot(curve.x, curve.y, color=ink.OK, linewidth=1.8, solid_joinstyle="round")
    axis.set(xlim=(-0.01 * curve.x_limit, 1.01 * curve.x_limit), ylim=(-0.01, 1.02))
    ink.entitle(axis, curve.title)
    axis.set(xlabel=curve.x_label, ylabel=curve.y_label)
    lines = []
    if curve.operating_point is not None:
        axis.plot(*curve.operating_point, "o", color=ink.NOK, markersize=6.5, clip_on=False, zorder=5)
        lines.append(("● at the threshold", ink.NOK))
    if isinstance(curve.area, int | float):
        lines.append((f"{curve.metric} {curve.area:.4f}", ink.INK))
    for line, (words, colour) in enumerate(lines):
        place = (0.96, 0.06 + 0.09 * line)
        axis.annotate(words, place, xycoords="axes fraction", ha="right", color=colour, fontsize=9.5)
    return drawing


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps points at equal steps along the curve, the first and the last among them."""
    length = np.cumsum(np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0])))
    wanted = np.searchsorted(length, np.linspace(0.0, length[-1], _MOST_POINTS))
    keep = np.unique(np.concatenate([[0], np.minimum(wanted, len(x) - 1), [len(x) - 1]]))
    return x[keep], y[keep]
