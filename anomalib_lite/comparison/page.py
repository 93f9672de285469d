"""compare.html: one page with all in it, for a browser, a printer or a colleague's mail box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from tqdm import tqdm

from anomalib_lite.comparison import figures
from anomalib_lite.comparison.factors import levels
from anomalib_lite.comparison.findings import cautions, digits, findings, number, probability, span, title, visible
from anomalib_lite.comparison.runs import COSTS
from anomalib_lite.comparison.study import Comparison, Study
from anomalib_lite.report import ink
from anomalib_lite.runs.atomic import write_text

SEEDS = (3, 5, 10, 20)  # for which the visible difference is told
Sheet = dict[str, Any]  # a table of the page: head, rows, and how many columns hold words


def write_page(found: Comparison, commands: Sequence[Sequence[tuple[str, str]]], path: Path) -> Path:
    """Writes the page and returns its path. commands: of each study, the best setting's on each data set."""
    loader = jinja2.PackageLoader("anomalib_lite.report")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    views, settings = found.views, found.settings
    places = {view.title: i for i, view in enumerate(views)}
    parts = [
        _part(found, study) | {"view": places[study.view.title], "metric": found.metrics.index(study.metric)}
        for study in tqdm(found.studies, "page", delay=2, leave=False)
    ]
    for part, lines in zip(parts, commands, strict=True):
        part["commands"] = lines
    page = environment.get_template("compare.html.j2").render(
        title=f"Comparison of {len(found.table.rows)} runs",
        subtitle=_subtitle(found),
        notes=found.table.notes,
        views=[(view.title, len(view.variants)) for view in views],
        all_settings=len(found.design.variants),
        metrics=[title(metric) for metric in found.metrics],
        reference=found.reference,
        parts=parts,
        confidence=f"{100 * settings.confidence:g} %",
        resamples=f"{settings.resamples:,}",
        left_out=_sheet(pd.DataFrame(found.table.left_out, columns=["run", "state", "reason"]), 3),
        gaps=_sheet(found.design.gaps(), 4),
        images=_images(found),
        margin=settings.margin,
        runs=_runs(found),
    )
    write_text(path, page)
    return path


def _subtitle(found: Comparison) -> str:
    rows, data = found.design.rows, found.design.blocks
    varied = " × ".join(f"{name} ({rows[name].nunique()})" for name in found.design.factors) or "seeds alone"
    seeds = rows["seed"].nunique()
    on = ", ".join(data) if len(data) <= 4 else f"{len(data)} data sets"
    return f"{varied}, on {on}; {seeds} seed{'s' if seeds != 1 else ''}"


def _part(found: Comparison, study: Study) -> dict[str, Any]:
    needed = [(n, visible(study, n)) for n in SEEDS]
    priced = study.summaries[["ms_per_image", "model_mb"]].notna().any(axis=None)
    return {
        "sentences": findings(study) + cautions(study),
        "settings": _settings(found, study),
        "settings_figure": _svg(figures.settings_figure, study),
        "effects": _effects(study) if len(study.effects) else None,
        "effects_figure": _svg(figures.effects_figure, study) if study.effects["difference"].notna().any() else "",
        "pairs": _pairs(study) if len(study.pairs) else None,
        "pairs_figure": _svg(figures.pairs_figure, study) if len(study.pairs) and study.pairs["pairs"].any() else "",
        "seeds": [(n, number(least, digits(study.metric))) for n, least in needed if least],
        "prices": _svg(figures.price_figure, study) if priced else "",
        "interactions": _svg(figures.interactions_figure, study) if study.interactions else "",
    }


def _svg(draw: Callable[[Study], Figure], study: Study) -> Markup:
    return Markup(ink.to_svg(draw(study)))


def _settings(found: Comparison, study: Study) -> Sheet:
    rows, places = study.summaries.sort_values(["best", "mean"], ascending=False), digits(study.metric)
    factors = found.design.factors
    table = pd.DataFrame([list(found.design.variants[s].values()) for s in rows["setting"]], rows.index, factors)
    if not factors:
        table["setting"] = rows["setting"]
    for name in ("mean", "deviation"):
        table[name] = _cells(rows[name], places)
    confidence = f"{100 * found.settings.confidence:g} %"
    for name, prefix in ((f"bootstrap {confidence}", "bootstrap_"), (f"Student {confidence}", "")):
        table[name] = _spans(rows, prefix, places)
    if "iqm" in rows:
        table["interquartile mean"] = _cells(rows["iqm"], places)
        table["its interval"] = _spans(rows, "iqm_", places)
    table["runs"] = _cells(rows["runs"], 0)
    return _sheet(table, len(factors) or 1, rows["best"])


def _effects(study: Study) -> Sheet:
    rows, places = study.effects, digits(study.metric)
    table = rows[["factor", "level"]].copy()
    table["less"] = rows["baseline"].where(rows["level"] != rows["baseline"], "")
    table["mean"] = _cells(rows["mean"], places)
    table["difference"] = _cells(rows["difference"], places, signed=True)
    table["interval"] = _spans(rows, "", places, signed=True)
    table["p (Holm)"] = [(probability(p), p) for p in rows["p_holm"]]
    table["comparisons"] = _cells(rows["contexts"], 0)
    return _sheet(table, 3, rows["p_holm"] < 0.05)


def _pairs(study: Study) -> Sheet:
    rows, places = study.pairs.sort_values(["p_holm", "p_student"], kind="stable"), digits(study.metric)
    table = rows[["setting", "less", "verdict"]].copy()
    table["difference"] = _cells(rows["difference"], places, signed=True)
    table["interval"] = _spans(rows, "", places, signed=True)
    for name, column in (("Student", "p_student"), ("sign flips", "p_sign_flips"), ("p (Holm)", "p_holm")):
        table[name] = [(probability(p), p) for p in rows[column]]
    shares, drawn = _cells(rows["improvement"], 2), _spans(rows, "improvement_", 2)
    table["improvement"] = [(f"{share} ({words})", p) for (share, p), (words, _) in zip(shares, drawn, strict=True)]
    return _sheet(table, 3, rows["significant"])


def _images(found: Comparison) -> Sheet:
    rows = found.images
    table = rows[["data", "setting", "seed", "verdict"]].copy()
    table["image AUROC"], table["interval"] = _cells(rows["auroc"], 4), _spans(rows, "", 4)
    table["difference"] = _cells(rows["difference"], 4, signed=True)
    table["its interval"] = _spans(rows, "difference_", 4, signed=True)
    table["p (Holm)"] = [(probability(p), p) for p in rows["p_holm"]]
    return _sheet(table, 4)


def _runs(found: Comparison) -> Sheet:
    factors = found.design.factors
    costs = [name for name in COSTS if name in found.table.rows and name not in found.metrics]
    table = found.table.rows[["run", "data", *factors, "seed", *found.metrics, *costs]].copy()
    for factor in factors:
        order = levels(list(table[factor]))
        table[factor] = [(level, order.index(level)) for level in table[factor]]
    for name in ("seed", *found.metrics, *costs):
        table[name] = _cells(table[name], 0 if name == "seed" else digits(name))
    return _sheet(table, 2 + len(factors))


def _cells(values: pd.Series, places: int, signed: bool = False) -> list[tuple[str, float]]:
    """Text and sort key."""
    return [(number(value, places, signed), value) for value in values]


def _spans(rows: pd.DataFrame, prefix: str, places: int, signed: bool = False) -> list[tuple[str, float]]:
    ends = zip(rows[f"{prefix}low"], rows[f"{prefix}high"], strict=True)
    return [(span(low, high, places, signed), low) for low, high in ends]


def _sheet(table: pd.DataFrame, words: int, marked: pd.Series | None = None) -> Sheet:
    """words: how many columns, from the left, hold words. A cell is a text, or a text and its sort key."""
    marks = [False] * len(table) if marked is None else list(marked)
    rows = []
    for mark, row in zip(marks, table.itertuples(index=False, name=None), strict=True):
        cells = [cell if isinstance(cell, tuple) else (str(cell), None) for cell in row]
        rows.append(
            {"marked": mark, "cells": [(text, "" if key != key else key) for text, key in cells]}
        )  # NaN: no key
    return {"head": list(table.columns), "rows": rows, "words": words}
