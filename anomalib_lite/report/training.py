"""The training curves of a run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anomalib_lite.report import ink

_STAGES = {"train": "training", "val": "validation", "test": "test"}
_NOT_A_CURVE = ["epoch", "step", "time", "seconds"]


def training_curves(history: pd.DataFrame) -> Figure | None:
    """Every numeric column of the history over the epochs, one panel a quantity, its stages together.

    Several rows of one epoch are averaged. None where there is nothing to draw.
    """
    rows = pd.Series(range(len(history)), index=history.index)
    epochs = pd.to_numeric(history["epoch"], errors="coerce") if "epoch" in history else rows
    values = history.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    values = values.drop(columns=_NOT_A_CURVE, errors="ignore").groupby(epochs).mean()
    values = values.dropna(axis=1, how="all")
    panels: dict[str, list[str]] = {}
    for column in values:
        panels.setdefault(_quantity(str(column)), []).append(column)
    if not panels:
        return None
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    drawing, axes = ink.panels(4.2 * columns if columns > 1 else 6.4, 2.9 * lines, lines, columns)
    for axis, (quantity, names) in zip(axes, panels.items(), strict=False):
        _panel(axis, quantity, values[names])
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return drawing


def _panel(axis: Axes, quantity: str, values: pd.DataFrame) -> None:
    for place, name in enumerate(values):
        series = values[name].dropna()
        look = {"color": ink.SERIES[place % len(ink.SERIES)], "linewidth": 1.6, "markersize": 3}
        marker = "o" if len(series) <= 30 else None
        axis.plot(series.index, series, marker=marker, label=_stage(str(name)), **look)
    lowest, highest = values.min().min(), values.max().max()
    if lowest > 0 and highest > 20 * lowest:
        axis.set_yscale("log")
    axis.xaxis.get_major_locator().set_params(integer=True)
    ink.entitle(axis, quantity)
    axis.set_xlabel("epoch")
    if len(values.columns) > 1:
        for words in axis.legend(frameon=False, fontsize=8.5, labelcolor=ink.MUTED).get_texts():
            words.set_parse_math(False)


def _quantity(column: str) -> str:
    head, _, tail = column.replace("/", "_").partition("_")
    return (tail if tail and head in _STAGES else column).replace("_", " ")


def _stage(column: str) -> str:
    return _STAGES.get(column.replace("/", "_").partition("_")[0], column)
