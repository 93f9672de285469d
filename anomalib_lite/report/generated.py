"""The page of a set of generated images: their quality in numbers, the images beside real ones, the losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from anomalib_lite.report import ink
from anomalib_lite.report.contact_sheet import Pair
from anomalib_lite.report.pictures import data_uri, thumbnail
from anomalib_lite.report.quality_words import guard_words, quality_rows
from anomalib_lite.report.words import yaml_lines
from anomalib_lite.runs.atomic import write_text

_MOST_POINTS = 400  # of a curve
_MOST_CURVES = 12
_NOT_A_CURVE = ("epoch", "scale")


def write_generated_page(
    path: Path,
    title: str,
    quality: Mapping[str, Any],
    pairs: Sequence[Pair],
    overlaps: Mapping[bool, Sequence[float]],
    losses: pd.DataFrame,
    config: str,
) -> None:
    """quality: as in quality.json. overlaps: edge overlaps of the images kept (True) and dropped (False).
    losses: columns step, name, value. config: YAML.
    """
    guard = quality["guard"]
    drawings = {
        "overlap": overlap_histogram(overlaps, None if guard is None else guard["threshold"]),
        "losses": loss_curves(losses),
    }
    loader = jinja2.PackageLoader("anomalib_lite.report")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    shown = [(p, data_uri(thumbnail(p.content)), data_uri(thumbnail(p.generated))) for p in pairs]
    page = environment.get_template("generated.html.j2").render(
        title=title,
        n=quality["n_generated"],
        n_real=quality["n_real"],
        rows=quality_rows(quality),
        guard=guard_words(quality),
        missing=dict(quality["missing"]),
        groups=[(True, [s for s in shown if s[0].kept]), (False, [s for s in shown if not s[0].kept])],
        drawings={name: Markup(ink.to_svg(figure)) for name, figure in drawings.items() if figure is not None},
        config=yaml_lines(config),
    )
    write_text(path, page)


def overlap_histogram(overlaps: Mapping[bool, Sequence[float]], threshold: float | None) -> Figure:
    """How many images agree with their content image how far."""
    drawing, axis = ink.figure(8.6, 2.2)
    everything = [*overlaps[True], *overlaps[False], *([] if threshold is None else [threshold])]
    low = max(0.0, min(everything) - 0.02)
    anchor = 1.0 if threshold is None else threshold  # an edge of a bar, so that none straddles the threshold
    width = (1 - low) / 40
    steps = np.arange(np.floor((low - anchor) / width), np.ceil((1 - anchor) / width) + 1)
    bins = anchor + steps * width
    colours = {True: (ink.OK_PALE, ink.OK, "kept"), False: (ink.NOK_PALE, ink.NOK, "dropped")}
    for kept, (fill, edge, words) in colours.items():
        if overlaps[kept]:
            axis.hist(overlaps[kept], bins, color=fill, edgecolor=edge, linewidth=0.5, label=words)
    if threshold is not None:
        axis.axvline(threshold, color=ink.INK, linewidth=1.2)
        axis.annotate(
            f"threshold {threshold:.3f}", (threshold, 1.03), xycoords=axis.get_xaxis_transform(), ha="center",
            color=ink.INK, fontsize=9,
        )  # fmt: skip
    if overlaps[False]:
        axis.legend(frameon=False, fontsize=8.5, labelcolor=ink.MUTED)
    axis.set_xlim(bins[0], max(1.0, bins[-1]))
    axis.set_xlabel("edge overlap with the content image")
    axis.set_ylabel("images")
    axis.yaxis.get_major_locator().set_params(integer=True)
    return drawing


def loss_curves(losses: pd.DataFrame) -> Figure | None:
    """One panel a loss over the steps; long curves are averaged. None where nothing was logged."""
    curves = {
        str(name): rows.groupby("step")["value"].last()  # a resumed training repeats some steps
        for name, rows in losses.groupby("name", sort=False)
        if str(name).rpartition("/")[2] not in _NOT_A_CURVE
    }
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    shown = list(curves.items())[:_MOST_CURVES]
    columns = min(len(shown), 3)
    lines = -(-len(shown) // columns)
    drawing, axes = ink.panels(3.6 * columns, 2.2 * lines, lines, columns)
    for axis, (name, curve) in zip(axes, shown, strict=False):
        group = np.arange(len(curve)) // -(-len(curve) // _MOST_POINTS)
        axis.plot(
            pd.Series(curve.index).groupby(group).mean(), curve.reset_index(drop=True).groupby(group).mean(),
            color=ink.OK, linewidth=1.2,
        )  # fmt: skip
        ink.entitle(axis, name.replace("_", " "))
        axis.set_xlabel("step")
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    return drawing
