"""Figures of a comparison: means with intervals for a README, and quality against what it costs."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anomalib_lite.comparison.compare import Comparison, Study
from anomalib_lite.comparison.pareto import Price
from anomalib_lite.comparison.words import title
from anomalib_lite.report import ink

ROW = 0.27  # inches a setting
LABELLED = 8  # settings of a front that are named beside their points


def means_figure(found: Comparison, metric: str) -> Figure:
    """One panel a data set, one row a setting: its seeds, its mean and Student's interval."""
    studies = [study for study in found.studies if study.metric == metric and len(study.view.blocks) == 1]
    names = [v for v in reversed(found.design.variants) if any(v in study.view.variants for study in studies)]
    width = 0.8 + 0.075 * max(map(len, names)) + 2.7 * len(studies)
    drawing, axes = ink.panels(width, 0.95 + ROW * len(names), 1, len(studies))
    for axis, study in zip(axes, studies, strict=True):
        _means(axis, study, names)
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names))
        ink.entitle(axis, study.view.title)
        axis.set_xlabel(title(metric))
    return drawing


def _means(axis: Axes, study: Study, names: list[str]) -> None:
    dots = [v for s in study.summaries for series in s.values.values() for v in series.values()]
    room = 0.6 * (max(dots) - min(dots)) or 1e-3
    low, high = min(dots) - room, max(dots) + room
    for summary in study.summaries:
        y, colour = names.index(summary.variant), ink.NOK if summary.best else ink.OK
        values = [v for series in summary.values.values() for v in series.values()]
        if summary.student.known:
            ends = [min(max(end, low), high) for end in (summary.student.low, summary.student.high)]
            axis.plot(ends, [y, y], color=colour, linewidth=1.2, solid_capstyle="butt")
        axis.scatter(values, [y] * len(values), s=11, color=colour, alpha=0.45, linewidths=0)
        axis.scatter([summary.mean], [y], s=30, marker="D", color=colour, zorder=3)
    axis.set_ylim(-0.7, len(names) - 0.3)
    axis.locator_params(axis="x", nbins=4)
    axis.grid(False, axis="y")


def price_figure(study: Study) -> Figure:
    """Quality against milliseconds and against megabytes; the fronts are joined."""
    drawing, axes = ink.panels(10.4, 3.7, 1, 2)
    _price(axes[0], study, [(p, p.milliseconds, p.fastest) for p in study.prices], "milliseconds an image")
    _price(axes[1], study, [(p, p.megabytes, p.smallest) for p in study.prices], "megabytes of the model")
    return drawing


def _price(axis: Axes, study: Study, points: list[tuple[Price, float, bool]], words: str) -> None:
    known = [point for point in points if math.isfinite(point[1])]
    axis.set_xlabel(words)
    axis.set_ylabel(title(study.metric))
    if not known:
        axis.text(0.5, 0.5, "not measured", color=ink.MUTED, ha="center", va="center", transform=axis.transAxes)
        return
    behind = [(x, p.quality) for p, x, first in known if not first]
    front = sorted(((x, p) for p, x, first in known if first), key=lambda point: point[0])
    along, up = [x for x, _ in front], [p.quality for _, p in front]
    axis.step(along, up, where="post", color=ink.NOK, linewidth=1.2, alpha=0.6)
    axis.scatter([x for x, _ in behind], [q for _, q in behind], s=30, color=ink.OK_PALE, edgecolors=ink.OK, zorder=3)
    axis.scatter(along, up, s=44, color=ink.NOK, zorder=4)
    axis.margins(0.14)
    middle = sum(axis.get_xlim()) / 2
    for x, price in front[:LABELLED]:
        right = x < middle
        axis.annotate(
            price.variant, (x, price.quality), xytext=(7 if right else -7, 6), textcoords="offset points",
            ha="left" if right else "right", color=ink.INK, fontsize=8.5, parse_math=False,
        )  # fmt: skip
