"""Figures of a comparison: means and differences with intervals, interactions, and quality against cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anomalib_lite.comparison.statistics import SIGNIFICANT
from anomalib_lite.comparison.study import Comparison, Study
from anomalib_lite.report import ink
from anomalib_lite.report.words import title

ROW = 0.27  # inches per setting
LABELLED = 8  # settings on a Pareto front that are labelled
LONGEST = 72  # characters of a row label
PAIRS = 12  # pairs shown at most
INTERACTIONS = 9  # interactions shown at most


def means_figure(comparison: Comparison, metric: str) -> Figure:
    """Draws one panel per data set with one row per setting: its seeds, its mean and Student's interval."""
    studies = [study for study in comparison.studies if study.metric == metric and len(study.view.blocks) == 1]
    names = [v for v in comparison.table.variants if any(v in study.view.variants for study in studies)]
    width = 2.7 + _width(names) / len(studies)
    drawing, axes = ink.grid(len(studies), width, 0.95 + ROW * len(names), columns=len(studies))
    for axis, study in zip(axes, studies, strict=True):
        _means(axis, study, names, axis is axes[0])
        ink.entitle(axis, study.view.title)
    return drawing


def settings_figure(study: Study) -> Figure:
    """Draws one study like `means_figure`, the best setting first; a dot is a seed's mean over the data sets."""
    names = list(study.ranked["setting"])
    drawing, axis = _frame(names)
    _means(axis, study, names, True)
    return drawing


def effects_figure(study: Study) -> Figure:
    """Draws the difference of each level to its factor's baseline, with Student's interval."""
    rows = study.effects.dropna(subset=["difference"])
    return _differences(study, rows, [f"{row.factor}: {row.level} less {row.baseline}" for row in rows.itertuples()])


def pairs_figure(study: Study) -> Figure:
    """Draws the differences between settings with Student's interval, the most significant first."""
    rows = study.pairs.dropna(subset=["difference"]).sort_values(["p_holm", "p_student"], kind="stable").head(PAIRS)
    return _differences(study, rows, [f"{row.setting} less {row.less}" for row in rows.itertuples()])


def interactions_figure(study: Study) -> Figure:
    """Draws one panel per pair of factors: levels of the first along the axis, one line per level of the second."""
    shown = study.interactions[:INTERACTIONS]
    drawing, axes = ink.grid(len(shown), 10.4 / min(3, len(shown)), 3.1)
    ink.place(drawing, 0.6, 0.5, top=0.35, gap=0.6)
    for axis, table in zip(axes, shown, strict=True):
        first, second = table.columns[:2]
        for k, (name, group) in enumerate(table.groupby(second, observed=True)):
            colour, x = ink.SERIES[k % len(ink.SERIES)], group[first].cat.codes + 0.04 * k
            axis.plot(x, group["mean"], "o-" if k < len(ink.SERIES) else "o--", color=colour, markersize=4, label=name)
            axis.vlines(x, group["low"], group["high"], color=colour, linewidth=1, alpha=0.6)
        axis.set_ylim(*_room(table["mean"], 1.0))
        axis.set_xticks(range(len(table[first].cat.categories)), table[first].cat.categories)
        axis.set_xlabel(first)
        legend = axis.legend(title=second, fontsize=8, title_fontsize=8, facecolor=ink.PAPER, labelcolor=ink.INK)
        legend.get_frame().set_linewidth(0)
        legend.get_title().set_color(ink.MUTED)
        ink.entitle(axis, "" if table.attrs["whole"] else "some combinations were not run")
    return drawing


def ranks_figure(study: Study) -> Figure:
    """Draws a critical-difference diagram (Demšar 2006, figure 1): mean ranks, the best on top, and bars that join
    settings without a significant difference.
    """
    ranks = study.ranks
    assert ranks is not None
    drawing, axis = _frame(ranks.settings)
    rows = np.arange(len(ranks.mean))
    axis.scatter(ranks.mean, rows, s=34, marker="D", color=ink.OK, zorder=3)
    for k, (first, last) in enumerate(ranks.alike):
        x = ranks.mean[last] + 0.12 + 0.1 * k
        axis.vlines(x, first - 0.2, last + 0.2, color=ink.NOK, linewidth=2.4)
    axis.hlines(-0.75, 1, 1 + ranks.critical, color=ink.MUTED, linewidth=2)
    axis.text(1 + ranks.critical + 0.05, -0.75, "critical difference", color=ink.MUTED, fontsize=8, va="center")
    axis.set_yticks(rows, _labels(ranks.settings))
    axis.set_ylim(len(rows) - 0.4, -1.2)
    axis.set_xlim(0.8, len(rows) + 0.3)
    axis.set_xlabel(f"mean rank of {title(study.metric)}")
    return drawing


def price_figure(study: Study) -> Figure:
    """Draws quality against milliseconds and against megabytes, with both Pareto fronts."""
    drawing, axes = ink.grid(2, 5.2, 3.7)
    ink.place(drawing, 0.7, 0.5, gap=0.75)
    _price(axes[0], study, "ms_per_image", "fastest", "milliseconds per image")
    _price(axes[1], study, "model_mb", "smallest", "megabytes of the model")
    return drawing


def _means(axis: Axes, study: Study, names: Sequence[str], named: bool) -> None:
    rows, values = study.summaries.set_index("setting").reindex(names), study.view.values
    # mean over the data sets for each seed that all of them have
    seeds = [values.loc[name].dropna(axis=1).mean() if name in values.index else [] for name in names]
    _forest(axis, rows, "mean", rows["best"] == True, seeds)  # noqa: E712
    axis.set_yticks(range(len(names)), _labels(names) if named else [""] * len(names))
    axis.set_xlabel(title(study.metric))


def _differences(study: Study, rows: pd.DataFrame, names: Sequence[str]) -> Figure:
    drawing, axis = _frame(names)
    axis.axvline(0.0, color=ink.MUTED, linewidth=0.8)
    _forest(axis, rows, "difference", rows["p_holm"] < SIGNIFICANT)
    axis.set_yticks(range(len(names)), _labels(names))
    axis.set_xlabel(f"{title(study.metric)}: difference")
    return drawing


def _forest(axis: Axes, table: pd.DataFrame, middle: str, marked: pd.Series, dots: Sequence[Any] = ()) -> None:
    """Draws one row per mean, the first on top. Intervals far wider than the range of the means are cut off."""
    means, rows = table[middle], np.arange(len(table))
    low, high = _room(np.concatenate([means, *dots, [] if dots else [0.0]]), 0.6)
    lows, highs, colours = (
        table["low"].clip(lower=low),
        table["high"].clip(upper=high),
        np.where(marked, ink.NOK, ink.OK),
    )
    axis.hlines(rows, lows, highs, colors=colours.tolist(), linewidth=1.2)
    if dots:
        row = np.repeat(rows, list(map(len, dots)))
        axis.scatter(np.concatenate(dots), row, s=26, c=colours[row], alpha=0.5, linewidths=0, zorder=2.5)
    axis.scatter(means, rows, s=30, marker="D", c=colours, zorder=3)
    axis.set_ylim(len(means) - 0.3, -0.7)
    axis.locator_params(axis="x", nbins=5)
    axis.grid(False, axis="y")


def _room(values: np.ndarray | pd.Series, share: float) -> tuple[float, float]:
    """Returns the range of the values, extended on both sides by a share of its width."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = share * (high - low) or 1e-3
    return low - room, high + room


def _labels(names: Sequence[str]) -> list[str]:
    """Returns row labels; the middle of long ones is left out."""
    head, tail = LONGEST // 3, LONGEST - LONGEST // 3 - 1
    return [name if len(name) <= LONGEST else f"{name[:head]}…{name[-tail:]}" for name in names]


def _width(names: Sequence[str]) -> float:
    """Returns the width of the row labels in inches."""
    return 0.8 + 0.075 * max(map(len, _labels(names)))


def _frame(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Creates a figure with one row per name."""
    drawing, axis = ink.figure(10.4, 0.75 + ROW * len(names))
    ink.place(drawing, _width(names) - 0.5, 0.55)
    return drawing, axis


def _price(axis: Axes, study: Study, cost: str, on_front: str, words: str) -> None:
    measured = study.summaries.dropna(subset=[cost]).sort_values(cost)
    axis.set_xlabel(words)
    axis.set_ylabel(title(study.metric))
    if measured.empty:
        axis.text(0.5, 0.5, "not measured", color=ink.MUTED, ha="center", va="center", transform=axis.transAxes)
        return
    dominated, front = measured[~measured[on_front]], measured[measured[on_front]]
    axis.step(front[cost], front["mean"], where="post", color=ink.NOK, linewidth=1.2, alpha=0.6)
    axis.scatter(dominated[cost], dominated["mean"], s=30, color=ink.OK_PALE, edgecolors=ink.OK, zorder=3)
    axis.scatter(front[cost], front["mean"], s=44, color=ink.NOK, zorder=4)
    axis.margins(0.14)
    middle = sum(axis.get_xlim()) / 2
    for name, x, y in front[["setting", cost, "mean"]].head(LABELLED).itertuples(index=False):
        right = x < middle
        axis.annotate(
            name, (x, y), xytext=(7 if right else -7, 6), textcoords="offset points",
            ha="left" if right else "right", color=ink.INK, fontsize=8.5, parse_math=False,
        )  # fmt: skip
