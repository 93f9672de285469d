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
from anomalib_lite.comparison.design import find_gaps
from anomalib_lite.comparison.runs import COSTS
from anomalib_lite.comparison.statistics import SIGNIFICANT
from anomalib_lite.comparison.study import Comparison, Study
from anomalib_lite.comparison.table import write_csv
from anomalib_lite.comparison.words import digits, number
from anomalib_lite.report import ink
from anomalib_lite.report.words import title
from anomalib_lite.runs.atomic import atomic_path, write_text

SEEDS = (3, 5, 10, 20)  # numbers of seeds for which the detectable difference is shown
Cell = tuple[str, Any]  # a text and its sort key; None: the text is the key
Sheet = dict[str, Any]  # a table of the page: head, rows, and the number of text columns
# heading -> (kind, name), the arguments of `_column`
EFFECTS = {
    "mean": ("value", "mean"),
    "difference": ("gain", "difference"),
    "interval": ("gain range", ""),
    "p (Holm)": ("p", "p_holm"),
    "comparisons": ("count", "contexts"),
}
PAIRS = {
    "difference": ("gain", "difference"),
    "interval": ("gain range", ""),
    "Student": ("p", "p_student"),
    "sign flips": ("p", "p_sign_flips"),
    "p (Holm)": ("p", "p_holm"),
    "improvement": ("share", "improvement"),
}
IMAGES = {
    "image AUROC": ("value", "auroc"),
    "interval": ("range", ""),
    "difference": ("gain", "difference"),
    "its interval": ("gain range", "difference_"),
    "p (Holm)": ("p", "p_holm"),
}


def write_all(comparison: Comparison, folder: Path) -> str:
    """Writes the page, compare.md, the tables (runs, pairs, images) and figures/ into a folder; returns compare.md and
    the path of the page, for the terminal.
    """
    write_csv(comparison.table.rows, folder / "runs.csv")
    with atomic_path(folder / "runs.parquet") as temporary:
        comparison.table.rows.to_parquet(temporary, index=False)
    pairs = [study.pairs.assign(data=study.view.title, metric=study.metric) for study in comparison.studies]
    write_csv(pd.concat(pairs).reindex(columns=["data", "metric", *pairs[0].columns[:-2]]), folder / "pairs.csv")
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
    table = comparison.table
    varied = " × ".join(f"{name} ({table.rows[name].nunique()})" for name in table.factors) or "seeds alone"
    seeds = table.rows["seed"].nunique()
    on = ", ".join(table.blocks) if len(table.blocks) <= 4 else f"{len(table.blocks)} data sets"
    return ink.template("compare.html.j2").render(
        title=f"Comparison of {len(table.rows)} runs",
        subtitle=f"{varied}, on {on}; {seeds} seed{'s' if seeds != 1 else ''}",
        notes=table.notes,
        views=[(view.title, len(view.variants)) for view in comparison.views],
        all_settings=len(table.variants),
        metrics=[title(metric) for metric in comparison.metrics],
        reference=comparison.reference,
        parts=[_part(comparison, study) for study in tqdm(comparison.studies, "page", delay=2, leave=False)],
        resamples=f"{comparison.resamples:,}",
        left_out=_sheet(pd.DataFrame(table.left_out, columns=["run", "state", "reason"])),
        gaps=_sheet(find_gaps(table)),
        images=_sheet(comparison.images, ["data", "setting", "seed", "verdict"], IMAGES),
        margin=comparison.margin,
        runs=_runs(comparison),
    )


def _part(comparison: Comparison, study: Study) -> dict[str, Any]:
    """Returns the template's variables for one study."""
    detectable, places = [(n, words.visible(study, n)) for n in SEEDS], digits(study.metric)
    priced = study.summaries[["ms_per_image", "model_mb"]].notna().any(axis=None)
    drawn: dict[str, tuple[Callable[[Study], Figure], bool]] = {
        "settings_figure": (figures.settings_figure, True),
        "effects_figure": (figures.effects_figure, study.effects["difference"].notna().any()),
        "pairs_figure": (figures.pairs_figure, len(study.pairs) > 0 and study.pairs["pairs"].any()),
        "ranks_figure": (figures.ranks_figure, study.ranks is not None),
        "prices": (figures.price_figure, priced),
        "interactions": (figures.interactions_figure, bool(study.interactions)),
    }
    return {
        "view": [view.title for view in comparison.views].index(study.view.title),
        "metric": comparison.metrics.index(study.metric),
        "commands": words.best_commands(comparison, study),
        "sentences": words.findings(study) + words.cautions(study),
        "settings": _settings(comparison, study),
        "effects": _effects(study) if len(study.effects) else None,
        "pairs": _pairs(study) if len(study.pairs) else None,
        "seeds": [(n, number(least, places)) for n, least in detectable if least],
    } | {
        name: Markup(ink.to_svg(draw(study))) if needed else ""  # noqa: S704 - our own drawing
        for name, (draw, needed) in drawn.items()
    }


def _settings(comparison: Comparison, study: Study) -> Sheet:
    rows, factors = study.summaries.sort_values(["best", "mean"], ascending=False), comparison.table.factors
    chosen = pd.DataFrame([comparison.table.variants[s] for s in rows["setting"]], rows.index, factors)
    shown = {
        "mean": ("value", "mean"),
        "deviation": ("value", "deviation"),
        "bootstrap 95 %": ("range", "bootstrap_"),
        "Student 95 %": ("range", ""),
    }
    if "iqm" in rows:
        shown |= {"interquartile mean": ("value", "iqm"), "its interval": ("range", "iqm_")}
    shown["runs"] = ("count", "runs")
    return _sheet(rows.join(chosen), factors or ["setting"], shown, digits(study.metric), rows["best"])


def _effects(study: Study) -> Sheet:
    rows = study.effects
    rows = rows.assign(less=rows["baseline"].where(rows["level"] != rows["baseline"], ""))
    return _sheet(rows, ["factor", "level", "less"], EFFECTS, digits(study.metric), rows["p_holm"] < SIGNIFICANT)


def _pairs(study: Study) -> Sheet:
    rows = study.pairs.sort_values(["p_holm", "p_student"], kind="stable")
    return _sheet(rows, ["setting", "less", "verdict"], PAIRS, digits(study.metric), rows["significant"])


def _runs(comparison: Comparison) -> Sheet:
    rows, factors = comparison.table.rows, comparison.table.factors
    costs = [name for name in COSTS if name in rows and name not in comparison.metrics]
    shown = {"seed": ("count", "seed")} | {name: ("metric", name) for name in (*comparison.metrics, *costs)}
    return _sheet(rows, ["run", "data", *factors], shown)


def _sheet(
    rows: pd.DataFrame,
    texts: Sequence[str] | None = None,
    shown: Mapping[str, tuple[str, str]] | None = None,
    places: int = 4,
    marked: pd.Series | None = None,
) -> Sheet:
    """Lays out a table of the page: text columns on the left (by default all), then those of `shown`, which maps a
    heading to the (kind, name) of `_column`.
    """
    texts, shown = list(rows) if texts is None else texts, shown or {}
    columns = [[(str(text), None) for text in rows[name]] for name in texts]
    columns += [_column(rows, kind, name, places) for kind, name in shown.values()]
    marks = [False] * len(rows) if marked is None else list(marked)
    cells = list(zip(*columns, strict=True))
    lines = [{"marked": mark, "cells": line} for mark, line in zip(marks, cells, strict=True)]
    return {"head": [*texts, *shown], "rows": lines, "words": len(texts)}


def _column(rows: pd.DataFrame, kind: str, name: str, places: int) -> list[Cell]:
    """Formats a column with its sort keys; the key of NaN is empty, so that NaN is sorted last in either direction.

    kind: p, share, range, gain range, value, gain, metric or count. name: the column, or the prefix of an interval's
    two columns.
    """
    signed, places = kind.startswith("gain"), {"metric": digits(name), "count": 0, "share": 2}.get(kind, places)
    values = rows[f"{name}low" if kind.endswith("range") else name]
    if kind.endswith("range"):
        texts = [words.span(low, high, places, signed) for low, high in zip(values, rows[f"{name}high"], strict=True)]
    elif kind == "share":
        spans = _column(rows, "range", f"{name}_", places)
        texts = [f"{number(share, places)} ({ends})" for share, (ends, _) in zip(values, spans, strict=True)]
    else:
        texts = [words.probability(v) if kind == "p" else number(v, places, signed) for v in values]
    return [(text, "" if math.isnan(value) else value) for text, value in zip(texts, values, strict=True)]
