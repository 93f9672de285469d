"""Where the scores of each kind of image lie, and on which side of the threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from anomalib_lite.report import ink
from anomalib_lite.report.cases import Judged, kind

_BINS = 44
_MOST_ROWS = 16
_TALLEST = 0.78  # of a row's height


@dataclass(frozen=True)
class _Row:
    name: str
    nok: bool | None
    scores: np.ndarray

    def summary(self, threshold: float) -> str:
        above = int((self.scores > threshold).sum())
        words = {True: "found", False: "false alarms", None: "rejected"}[self.nok]
        return f"{above} of {len(self.scores)} {words}"


def score_histogram(predictions: Sequence[Judged], threshold: float) -> Figure | None:
    """One row a kind of image, OK first, over a common axis; what lies on the wrong side is drawn strong.

    The axis is logarithmic where the scores span more than a factor of eight. None without a finite score.
    """
    rows = _rows(predictions)
    if not rows:
        return None
    marks = [threshold] if math.isfinite(threshold) else []
    everything = np.concatenate([row.scores for row in rows] + [np.array(marks)])
    low, high = float(everything.min()), float(everything.max())
    logarithmic = low > 0 and high > 8 * low
    edges = _edges(low, high, threshold, logarithmic)
    drawing, axis = ink.figure(8.6, 0.9 + 0.55 * len(rows))
    for place, row in enumerate(rows):
        _draw(axis, row, len(rows) - 1 - place, edges, threshold)
    if logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 500 * low else (1.0,)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    _finish(axis, rows, edges, threshold)
    axis.set_xlabel("image score" + (", logarithmic" if logarithmic else ""))
    return drawing


def _rows(predictions: Sequence[Judged]) -> list[_Row]:
    """OK first, then by falling size; kinds beyond the limit are put together."""
    scores: dict[tuple[str, bool | None], list[float]] = {}
    for item in predictions:
        if math.isfinite(item.score):
            truth = None if item.label is None else bool(item.label)
            scores.setdefault((kind(item), truth), []).append(item.score)
    rows = [_Row(name, truth, np.array(values)) for (name, truth), values in scores.items()]
    rows.sort(key=lambda row: (row.nok is not False, -len(row.scores), row.name))
    head, tail = rows[: _MOST_ROWS - 1], rows[_MOST_ROWS - 1 :]
    if len(tail) <= 1:
        return rows
    truths = {row.nok for row in tail}
    truth = truths.pop() if len(truths) == 1 else None
    return [*head, _Row(f"{len(tail)} rarer kinds", truth, np.concatenate([row.scores for row in tail]))]


def _edges(low: float, high: float, threshold: float, logarithmic: bool) -> np.ndarray:
    """Bins of equal width with the threshold as one of the edges, so that no bar straddles it."""
    start, stop = (math.log(low), math.log(high)) if logarithmic else (low, high)
    width = max((stop - start) / _BINS, 1e-6 * abs(start), 1e-12)
    anchor = start
    if math.isfinite(threshold):
        anchor = math.log(threshold) if logarithmic else threshold
    steps = np.arange(math.floor((start - anchor) / width) - 1, math.ceil((stop - anchor) / width) + 2)
    edges = anchor + steps * width
    edges = np.exp(edges) if logarithmic else edges
    if math.isfinite(threshold):
        edges[steps == 0] = threshold
    return edges


def _draw(axis: Axes, row: _Row, bottom: int, edges: np.ndarray, threshold: float) -> None:
    # numpy's bins hold their left edge, but a score equal to the threshold does not exceed it.
    scores = np.where(row.scores == threshold, np.nextafter(threshold, -np.inf), row.scores)
    counts, _ = np.histogram(scores, edges)
    above = edges[:-1] >= threshold
    strong, pale = (ink.NOK, ink.NOK_PALE) if row.nok else (ink.OK, ink.OK_PALE)
    if row.nok is None:
        strong, pale = ink.MUTED, ink.GRID
    wrong = np.zeros_like(above) if row.nok is None else above != row.nok
    filled = counts > 0
    axis.bar(
        edges[:-1][filled], _TALLEST * counts[filled] / max(counts.max(), 1), np.diff(edges)[filled], bottom,
        align="edge", color=np.where(wrong, strong, pale)[filled], edgecolor=strong, linewidth=0.5,
    )  # fmt: skip
    axis.axhline(bottom, color=ink.GRID, linewidth=0.8, zorder=0.5)


def _finish(axis: Axes, rows: Sequence[_Row], edges: np.ndarray, threshold: float) -> None:
    axis.grid(False)
    axis.set(xlim=(edges[0], edges[-1]), ylim=(-0.08, len(rows)))
    axis.set_yticks(np.arange(len(rows))[::-1] + 0.3, [row.name for row in rows], parse_math=False)
    axis.tick_params(axis="y", length=0, labelcolor=ink.INK, labelsize=9, pad=8)
    axis.spines["left"].set_visible(False)
    for place, row in enumerate(rows):
        height = (len(rows) - 1 - place + 0.3 + 0.08) / (len(rows) + 0.08)
        axis.annotate(
            row.summary(threshold), (1.015, height), xycoords="axes fraction", va="center",
            color=ink.MUTED, fontsize=8.5,
        )  # fmt: skip
    if math.isfinite(threshold):
        axis.axvline(threshold, color=ink.INK, linewidth=1.2)
        place = {"xy": (threshold, 1.02), "xycoords": axis.get_xaxis_transform(), "ha": "center"}
        axis.annotate(f"threshold {threshold:.4g}", **place, color=ink.INK, fontsize=9)
