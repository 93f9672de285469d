"""Writes the results of a comparison: compare.html, compare.md, tables and figures."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from tqdm import tqdm

from anomalib_lite.comparison import figures, words
from anomalib_lite.comparison.runs import COSTS
from anomalib_lite.comparison.statistics import SIGNIFICANT
from anomalib_lite.comparison.study import Comparison, Study
from anomalib_lite.comparison.table import find_gaps, write_csv
from anomalib_lite.comparison.words import DIGITS, number
from anomalib_lite.report import ink
from anomalib_lite.report.words import title
from anomalib_lite.runs.atomic import atomic_path, write_text

SEEDS = (3, 5, 10, 20)  # numbers of seeds for which the detectable difference is shown
Cell = tuple[str, Any]  # a text and its sort key; None: the text is the key
Sheet = dict[str, Any]  # a table of the page: head, rows, and the number of text columns
# heading -> the column, for `_column`
SETTINGS = {"mean": "mean", "deviation": "deviation", "bootstrap 95 %": "bootstrap_low", "Student 95 %": "low"}
ROBUST = {"interquartile mean": "iqm", "its interval": "iqm_low"}
EFFECTS = {
    "mean": "mean", "difference": "+difference", "interval": "+low", "p (Holm)": "p_holm", "comparisons": "contexts",
}  # fmt: skip
PAIRS = {
    "difference": "+difference", "interval": "+low", "Student": "p_student", "sign flips": "p_sign_flips",
    "p (Holm)": "p_holm", "improvement": "improvement",
}  # fmt: skip
IMAGES = {
    "image AUROC": "auroc", "interval": "low", "difference": "+difference", "its interval": "+difference_low",
    "p (Holm)": "p_holm",
}  # fmt: skip
P_VALUES = ("p_student", "p_sign_flips", "p_holm")
LOWS = ("low", "bootstrap_low", "iqm_low", "difference_low")


def write_all(comparison: Comparison, folder: Path) -> str:
    """Writes the page, compare.md, the tables (runs, pairs, images) and figures/ into a folder; returns compare.md and
    the path of the page, for the terminal.
    """
    write_csv(comparison.table.rows, folder / "runs.csv")
    with atomic_path(folder / "runs.parquet") as temporary:
        comparison.table.rows.to_parquet(temporary, index=False)
    pairs = [study.pairs.assign(data=study.view.title, metric=study.metric) for study in comparison.studies]
    rows = pd.concat([own for own in pairs if len(own)] or pairs)  # empty ones would change the columns' types
    write_csv(rows[["data", "metric", *pairs[0].columns[:-2]]], folder / "pairs.csv")
    write_csv(comparison.images, folder / "images.csv")
    document = words.document(comparison)
    write_text(folder / "compare.md", document)
    for metric in comparison.metrics:
        ink.save_png(figures.means_figure(comparison, metric), folder / "figures" / f"{metric}.png")
    page = folder / "compare.html"
    write_text(page, render_page(comparison))
    return f"{document}\n\n{page}"


def render_page(comparison: Comparison) -> str:
    """Returns compare.html."""
    table, costs = comparison.table, [name for name in COSTS if name not in comparison.metrics]
    varied = " × ".join(f"{name} ({table.rows[name].nunique()})" for name in table.factors) or "seeds alone"
    on = ", ".join(table.blocks) if len(table.blocks) <= 4 else f"{len(table.blocks)} data sets"
    shown = {name: name for name in ("seed", *comparison.metrics, *costs) if name in table.rows}
    several = ["run"] if comparison.images.duplicated(["data", "setting", "seed"]).any() else []
    return ink.template("compare.html.j2").render(
        title=f"Comparison of {len(table.rows)} runs",
        subtitle=f"{varied}, on {on}; {words.counted(table.rows['seed'].nunique(), 'seed')}",
        notes=table.notes,
        views=[(view.title, len(view.variants)) for view in comparison.views],
        all_settings=len(table.variants),
        metrics=[title(metric) for metric in comparison.metrics],
        reference=comparison.reference,
        parts=[_part(comparison, study) for study in tqdm(comparison.studies, "page", delay=2, leave=False)],
        resamples=f"{comparison.resamples:,}",
        left_out=_sheet(pd.DataFrame(table.left_out, columns=["run", "state", "reason"])),
        gaps=_sheet(find_gaps(table)),
        images=_sheet(comparison.images, ["data", "setting", "seed", *several, "verdict"], IMAGES),
        margin=comparison.margin,
        runs=_sheet(table.rows, ["run", "data", *table.factors], shown),
    )


def _part(comparison: Comparison, study: Study) -> dict[str, Any]:
    """Returns the template's variables for one study."""
    detectable, places = [(n, words.visible(study, n)) for n in SEEDS], DIGITS.get(study.metric, 4)
    table, settings = comparison.table, study.ranked
    chosen = pd.DataFrame([table.variants[s] for s in settings["setting"]], settings.index, table.factors)
    shown = SETTINGS | (ROBUST if "iqm" in settings else {}) | {"runs": "runs"}
    effects, pairs = study.effects, study.pairs.sort_values(["p_holm", "p_student"], kind="stable")
    effects = effects.assign(less=effects["baseline"].where(effects["level"] != effects["baseline"], ""))
    effects_sheet = _sheet(effects, ["factor", "level", "less"], EFFECTS, places, effects["p_holm"] < SIGNIFICANT)
    pairs_sheet = _sheet(pairs, ["setting", "less", "verdict"], PAIRS, places, pairs["significant"])
    priced = settings[["ms_per_image", "model_mb"]].notna().any(axis=None)
    return {
        "view": [view.title for view in comparison.views].index(study.view.title),
        "metric": comparison.metrics.index(study.metric),
        "commands": words.best_commands(comparison, study),
        "sentences": words.findings(study) + words.cautions(study),
        "settings": _sheet(settings.join(chosen), table.factors or ["setting"], shown, places, settings["best"]),
        "effects": effects_sheet if len(effects) else None,
        "pairs": pairs_sheet if len(pairs) else None,
        "seeds": [(n, number(least, places)) for n, least in detectable if least],
        "settings_figure": _svg(figures.settings_figure, study),
        "effects_figure": _svg(figures.effects_figure, study, effects["difference"].notna().any()),
        "pairs_figure": _svg(figures.pairs_figure, study, pairs["pairs"].any()),
        "ranks_figure": _svg(figures.ranks_figure, study, study.ranks is not None),
        "prices": _svg(figures.price_figure, study, priced),
        "interactions": _svg(figures.interactions_figure, study, bool(study.interactions)),
    }


def _svg(draw: Callable[[Study], Figure], study: Study, needed: bool = True) -> str:
    return Markup(ink.to_svg(draw(study))) if needed else ""  # noqa: S704 - our own drawing


def _sheet(
    rows: pd.DataFrame,
    texts: Sequence[str] | None = None,
    shown: Mapping[str, str] | None = None,
    places: int = 4,
    marked: pd.Series | None = None,
) -> Sheet:
    """Lays out a table of the page: text columns on the left (by default all), then those of `shown`."""
    texts, shown = list(rows) if texts is None else texts, shown or {}
    columns = [[(str(text), None) for text in rows[name]] for name in texts]
    columns += [_column(rows, name, places) for name in shown.values()]
    marks = [False] * len(rows) if marked is None else marked
    lines = [{"marked": mark, "cells": line} for mark, *line in zip(marks, *columns, strict=True)]
    return {"head": [*texts, *shown], "rows": lines, "words": len(texts)}


def _column(rows: pd.DataFrame, name: str, places: int) -> list[Cell]:
    """Formats a column with its sort keys; the key of NaN is empty, so that NaN is sorted last in either direction.

    name: with + before it if the sign is always shown; that of a lower bound stands for the interval.
    """
    signed, name = name.startswith("+"), name.removeprefix("+")
    values, places = rows[name], DIGITS.get(name, places)
    texts = [words.probability(v) if name in P_VALUES else number(v, places, signed) for v in values]
    if name in LOWS:
        highs = rows[name.replace("low", "high")]
        texts = [words.span(low, high, places, signed) for low, high in zip(values, highs, strict=True)]
    elif name == "improvement":
        bounds = zip(texts, rows["improvement_low"], rows["improvement_high"], strict=True)
        texts = [f"{text} ({words.span(low, high, places)})" for text, low, high in bounds]
    return [(text, "" if math.isnan(value) else value) for text, value in zip(texts, values, strict=True)]
