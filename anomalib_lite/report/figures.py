"""Draws the figures of a run: score histograms, ROC and precision-recall curves, training losses, contact sheets."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from anomalib_lite.data.sample import Outcome
from anomalib_lite.metrics.image import count_ties
from anomalib_lite.report import ink
from anomalib_lite.report.cases import kind
from anomalib_lite.report.pictures import colour_bar, tick_positions

if TYPE_CHECKING:
    from anomalib_lite.scoring import Threshold  # with torch

Points = Mapping[str, tuple[np.ndarray, np.ndarray]]
_BINS = 44
_MOST_ROWS = 16
_TALLEST = 0.78  # height of the tallest bar, as a share of the row
_MOST_POINTS = 400  # points of a curve


@dataclass(frozen=True)
class CurveAxes:
    """Title and axis labels of a curve, name and metrics.json key of the area under it, and the end of the x axis."""

    title: str
    x: str
    y: str
    metric: str
    key: str
    end: float = 1.0


AXES = {
    "roc": CurveAxes("ROC of images", "false-alarm rate", "recall", "AUROC", "image_auroc"),
    "precision_recall": CurveAxes("Precision and recall of images", "recall", "precision", "AP", "image_ap"),
    "pixel_roc": CurveAxes("ROC of pixels", "false-positive rate", "recall", "AUROC", "pixel_auroc"),
    "pixel_pr": CurveAxes("Precision and recall of pixels", "recall", "precision", "AP", "pixel_ap"),
    "pixel_pro": CurveAxes("Per-region overlap", "false-positive rate", "overlap", "AUPRO", "aupro", 0.3),
}
_STAGES = {"train": "training", "val": "validation", "test": "test"}
_NOT_A_CURVE = ("epoch", "step", "time", "seconds", "scale")
_MOST_PANELS = 12
TILE = 160  # side of a tile of a contact sheet in pixels
BESIDE = 242  # grey level around an image that is not square
_GAP, _MARGIN, _CAPTION, _FOOT = 6, 12, 30, 56  # pixels


class Curve(NamedTuple):
    """Points (x, y) of a curve in the unit square, and the point at the threshold."""

    x: np.ndarray
    y: np.ndarray
    operating_point: tuple[float, float] | None = None


def draw_figures(
    outcomes: Sequence[Outcome],
    threshold: "Threshold",
    metrics: Mapping[str, Any],
    history: pd.DataFrame,
    points: Points | None = None,
) -> dict[str, Figure]:
    """Draws the available figures: scores, roc, precision_recall, pixel_roc, pixel_pr, pixel_pro, training.

    The areas in `metrics` (as in metrics.json) are written into the curves; `points` are those of the pixel curves.
    """
    curves = image_curves(outcomes) | {f"pixel_{name}": Curve(*xy) for name, xy in (points or {}).items()}
    drawn = {
        "scores": score_histogram(outcomes, threshold),
        **{name: curve_figure(curve, AXES[name], metrics[AXES[name].key]) for name, curve in curves.items()},
        "training": training_curves(history),
    }
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}


def score_histogram(outcomes: Sequence[Outcome], threshold: "Threshold") -> Figure | None:
    """Draws one histogram per kind of image, OK first, on a common axis; mistakes are drawn in a strong colour.

    Of several categories it shows the scores minus the threshold of their category. The axis is logarithmic if the
    scores span more than a factor of eight. Returns None without a finite score.
    """
    limit, what = threshold.image, "image score"
    if threshold.categories:
        limit, what = 0.0, "image score minus the threshold of its category"
        outcomes = [replace(o, score=o.score - threshold.of(o.sample.category).image) for o in outcomes]
    rows = _score_rows(outcomes)
    if not rows:
        return None
    everything = [limit, *np.concatenate([scores for _, _, scores in rows]).tolist()]
    low, high = min(everything), max(everything)
    logarithmic = low > 0 and high > 8 * low
    edges = bin_edges(low, high, limit, logarithmic)
    drawing, axis = ink.figure(8.6, 0.9 + 0.55 * len(rows))
    for place, (_, nok, scores) in enumerate(rows):
        bottom = len(rows) - 1 - place
        _draw_scores(axis, nok, scores, bottom, edges, limit)
        words = {True: "found", False: "false alarms", None: "rejected"}[nok]
        height = (bottom + 0.38) / (len(rows) + 0.08)
        text = f"{(scores > limit).sum()} of {len(scores)} {words}"
        axis.annotate(text, (1.015, height), xycoords="axes fraction", va="center", color=ink.MUTED, fontsize=8.5)
    if logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 500 * low else (1.0,)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(False)
    axis.set(xlim=(edges[0], edges[-1]), ylim=(-0.08, len(rows)))
    axis.set_yticks(np.arange(len(rows))[::-1] + 0.3, [name for name, _, _ in rows], parse_math=False)
    axis.tick_params(axis="y", length=0, labelcolor=ink.INK, labelsize=9, pad=8)
    axis.spines["left"].set_visible(False)
    mark_threshold(axis, limit, f"threshold {limit:.4g}", 1.02)
    axis.set_xlabel(what + (", logarithmic" if logarithmic else ""))
    return drawing


def mark_threshold(axis: Axes, value: float, words: str, height: float) -> None:
    """Draws a vertical line at a value, with a label above it."""
    axis.axvline(value, color=ink.INK, linewidth=1.2)
    axis.text(value, height, words, transform=axis.get_xaxis_transform(), ha="center", color=ink.INK, fontsize=9)


def bin_edges(low: float, high: float, threshold: float, logarithmic: bool = False) -> np.ndarray:
    """Returns the edges of bins of equal width, one of which is the threshold, so that no bar straddles it."""
    finite = math.isfinite(threshold)
    ends = (low, high, threshold if finite else low)
    start, stop, anchor = map(math.log, ends) if logarithmic else ends
    width = max((stop - start) / _BINS, 1e-6 * abs(start), 1e-12)
    steps = np.arange(math.floor((start - anchor) / width) - 1, math.ceil((stop - anchor) / width) + 2)
    edges = anchor + steps * width
    edges = np.exp(edges) if logarithmic else edges
    if finite:
        edges[steps == 0] = threshold
    return edges


def image_curves(outcomes: Sequence[Outcome]) -> dict[str, Curve]:
    """Returns ROC and precision-recall curve of the images by their names in `AXES`; empty without both classes."""
    labelled = [outcome for outcome in outcomes if outcome.sample.label is not None and math.isfinite(outcome.score)]
    labels = np.array([bool(outcome.sample.label) for outcome in labelled], dtype=bool)
    if not labels.any() or labels.all():
        return {}
    scores, above = np.array([o.score for o in labelled]), np.array([o.nok for o in labelled])
    recall, false_alarms = above[labels].mean(), above[~labels].mean()
    precision = labels[above].mean() if above.any() else 1.0
    points = pixel_points(*count_ties(scores, labels))
    return {
        "roc": Curve(*points["roc"], (false_alarms, recall)),
        "precision_recall": Curve(*points["pr"], (recall, precision)),
    }


def pixel_points(ok: np.ndarray, nok: np.ndarray, overlap: np.ndarray | None = None) -> Points:
    """Returns the points of the curves roc, pr and pro, a few hundred each; none without OK or without NOK items.

    Takes counts (bins,) of pixels by ascending map value, or of images by ascending score. `overlap` weights a defect's
    pixels by 1 / size of their region; without it there is no curve pro.
    """
    overlap = np.zeros_like(nok) if overlap is None else overlap
    used = np.flatnonzero(ok + nok)[::-1]
    flagged_ok, flagged_nok, covered = (np.cumsum(counts[used], dtype=float) for counts in (ok, nok, overlap))
    if not len(used) or not flagged_ok[-1] or not flagged_nok[-1]:
        return {}
    start = np.zeros(1)
    rate, recall = np.append(start, flagged_ok / flagged_ok[-1]), np.append(start, flagged_nok / flagged_nok[-1])
    points = {"roc": (rate, recall), "pr": (flagged_nok / flagged_nok[-1], flagged_nok / (flagged_nok + flagged_ok))}
    if covered[-1]:
        points["pro"] = (rate, np.append(start, covered / covered[-1]))
    return {name: _thin(x, y) for name, (x, y) in points.items()}


def curve_figure(curve: Curve, axes: CurveAxes, area: float | None) -> Figure:
    """Draws a curve with the area under it filled."""
    drawing, axis = ink.figure(4.2, 3.4)
    order = np.argsort(curve.x, kind="stable")
    axis.fill_between(curve.x[order], curve.y[order], color=ink.OK, alpha=0.10, linewidth=0)
    axis.plot(curve.x, curve.y, color=ink.OK, linewidth=1.8, solid_joinstyle="round")
    axis.set(xlim=(-0.01 * axes.end, 1.01 * axes.end), ylim=(-0.01, 1.02), xlabel=axes.x, ylabel=axes.y)
    ink.entitle(axis, axes.title)
    style: dict[str, Any] = {"transform": axis.transAxes, "ha": "right", "fontsize": 9.5}
    height = 0.06
    if curve.operating_point is not None:
        axis.plot(*curve.operating_point, "o", color=ink.NOK, markersize=6.5, clip_on=False, zorder=5)
        axis.text(0.96, height, "● at the threshold", color=ink.NOK, **style)
        height += 0.09
    if area is not None:
        axis.text(0.96, height, f"{axes.metric} {area:.4f}", color=ink.INK, **style)
    return drawing


def training_curves(history: pd.DataFrame, steps: str = "epoch") -> Figure | None:
    """Draws every numeric column of the history over epochs or steps: one panel per quantity, one line per stage.

    Rows of the same epoch are averaged, as are neighbouring points of long curves. Returns None without a curve.
    """
    if history.empty:
        return None
    values = history.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan).groupby(steps).mean()
    shown = [name for name in values if name.rpartition("/")[2] not in _NOT_A_CURVE]
    values = values[shown].dropna(axis=1, thresh=2)  # one value is no curve
    quantities: dict[str, list[str]] = {}
    for column in values:
        head, _, tail = column.replace("/", "_").partition("_")
        quantity = (tail if tail and head in _STAGES else column).replace("_", " ")
        quantities.setdefault(quantity, []).append(column)
    drawn = list(quantities.items())[:_MOST_PANELS]
    if not drawn:
        return None
    drawing, axes = ink.grid(len(drawn), 4.2 if len(drawn) > 1 else 6.4, 2.9)
    for axis, (quantity, names) in zip(axes, drawn, strict=True):
        _draw_quantity(axis, values[names])
        ink.entitle(axis, quantity)
        axis.set_xlabel(steps)
    return drawing


def _score_rows(outcomes: Sequence[Outcome]) -> list[tuple[str, bool | None, np.ndarray]]:
    """Returns (kind, whether NOK, scores): OK first, then by descending size; kinds beyond the limit are merged."""
    scores: dict[tuple[str, bool | None], list[float]] = {}
    for outcome in outcomes:
        if math.isfinite(outcome.score):
            truth = None if outcome.sample.label is None else bool(outcome.sample.label)
            scores.setdefault((kind(outcome.sample), truth), []).append(outcome.score)
    rows = [(name, truth, np.array(values)) for (name, truth), values in scores.items()]
    rows.sort(key=lambda row: (row[1] is not False, -len(row[2]), row[0]))
    head, tail = rows[: _MOST_ROWS - 1], rows[_MOST_ROWS - 1 :]
    if len(tail) <= 1:
        return rows
    truths = {truth for _, truth, _ in tail}
    rest = np.concatenate([values for _, _, values in tail])
    return [*head, (f"{len(tail)} rarer kinds", truths.pop() if len(truths) == 1 else None, rest)]


def _draw_scores(
    axis: Axes, nok: bool | None, scores: np.ndarray, bottom: int, edges: np.ndarray, threshold: float
) -> None:
    # numpy's bins contain their left edge, but a score equal to the threshold does not exceed it.
    counts, _ = np.histogram(np.where(scores == threshold, np.nextafter(threshold, -np.inf), scores), edges)
    strong, pale = {True: (ink.NOK, ink.NOK_PALE), False: (ink.OK, ink.OK_PALE), None: (ink.MUTED, ink.GRID)}[nok]
    above = edges[:-1] >= threshold
    wrong = np.zeros_like(above) if nok is None else above != nok
    filled = counts > 0
    axis.bar(
        edges[:-1][filled], _TALLEST * counts[filled] / max(counts.max(), 1), np.diff(edges)[filled], bottom,
        align="edge", color=np.where(wrong, strong, pale)[filled], edgecolor=strong, linewidth=0.5,
    )  # fmt: skip
    axis.axhline(bottom, color=ink.GRID, linewidth=0.8, zorder=0.5)


def _draw_quantity(axis: Axes, values: pd.DataFrame) -> None:
    for name, colour in zip(values, itertools.cycle(ink.SERIES)):
        series = values[name].dropna().reset_index()
        series = series.groupby(series.index // -(-len(series) // _MOST_POINTS)).mean()
        label = _STAGES.get(name.replace("/", "_").partition("_")[0], name)
        marker = "o" if len(series) <= 30 else ""
        axis.plot(*series.to_numpy().T, marker=marker, label=label, color=colour, linewidth=1.6, markersize=3)
    lowest, highest = values.min().min(), values.max().max()
    if lowest > 0 and highest > 20 * lowest:
        axis.set_yscale("log")
    ink.whole_numbers(axis.xaxis)
    if len(values.columns) > 1:
        for words in axis.legend(frameon=False, fontsize=8.5, labelcolor=ink.MUTED).get_texts():
            words.set_parse_math(False)


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps points at equal steps along the curve, including the first and the last one."""
    length = np.cumsum(np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0])))
    steps = np.searchsorted(length, np.linspace(0.0, length[-1], _MOST_POINTS))
    keep = np.unique(np.concatenate([[0], np.minimum(steps, len(x) - 1), [len(x) - 1]]))
    return x[keep], y[keep]


@dataclass(frozen=True)
class Block:
    """A group of tiles, uint8 RGB (H, W, 3) of any size, with captions above at the left and the right."""

    tiles: Sequence[np.ndarray]
    left: str
    right: str = ""
    alarming: bool = False  # the right caption has the colour of defects


def draw_sheet(
    blocks: Sequence[Block], columns: int, scale: bool = False, side: int = TILE, one: str = "threshold"
) -> Figure | None:
    """Draws blocks of equally many tiles, up to `columns` per row, and the colour scale of heat maps with unit `one`.

    Saved with `ink.save_png` at 100 dpi, a pixel of a tile of `side` px is a pixel of the picture. None without blocks.
    """
    if not blocks:
        return None
    columns, tiles = min(columns, len(blocks)), len(blocks[0].tiles)
    across, down = tiles * side + (tiles - 1) * _GAP + 2 * _MARGIN, side + _CAPTION
    height, width = -(-len(blocks) // columns) * down + (_FOOT if scale else _MARGIN), columns * across
    canvas = np.full((height, width, 3), 255, np.uint8)
    drawing = Figure(figsize=(width / 100, height / 100), facecolor=ink.PAPER)
    axis = drawing.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    for place, block in enumerate(blocks):
        top, left = place // columns * down + _CAPTION - 4, place % columns * across + _MARGIN
        for position, tile in enumerate(block.tiles):
            x = left + position * (side + _GAP)
            canvas[top : top + side, x : x + side] = square_tile(tile, side)
        axis.text(left, top - 7, block.left, fontsize=8, color=ink.INK, parse_math=False)
        colour, right = ink.NOK if block.alarming else ink.MUTED, left + across - 2 * _MARGIN
        axis.text(right, top - 7, block.right, fontsize=8, color=colour, ha="right", parse_math=False)
    if scale:
        bar, top = min(360, width - 80), height - _FOOT + 14
        canvas[top : top + 10, _MARGIN : _MARGIN + bar] = colour_bar(bar, 10)
        for share, label in tick_positions():
            label, where = one if label == "threshold" else label, "center" if share else "left"
            axis.text(_MARGIN + share * (bar - 1), top + 28, label, fontsize=8, color=ink.MUTED, ha=where)
    axis.imshow(canvas, interpolation="nearest", aspect="auto")
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return drawing


def square_tile(image: np.ndarray, side: int) -> np.ndarray:
    """Fits an image (H, W, 3) into a square tile on pale grey, keeping its aspect ratio."""
    scale = side / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    tile = np.full((side, side, 3), BESIDE, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    tile[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=method)
    return tile
