"""compare.html: one page with all in it, for a browser, a printer or a colleague's mail box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from anomalib_lite.comparison.compare import Comparison, Study
from anomalib_lite.comparison.factors import levels
from anomalib_lite.comparison.missing import incomplete, never_run
from anomalib_lite.comparison.shown import show
from anomalib_lite.comparison.table import COSTS
from anomalib_lite.comparison.words import MEANINGS, digits, meaning, title, value
from anomalib_lite.runs.atomic import write_text


def write_page(found: Comparison, path: Path) -> Path:
    """Writes the page and returns its path."""
    loader = jinja2.PackageLoader("anomalib_lite.report")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    views, settings = found.views, found.settings
    places = {view.title: i for i, view in enumerate(views)}
    parts = [show(found, s, places[s.view.title], found.metrics.index(s.metric)) for s in found.studies]
    page = environment.get_template("compare.html.j2").render(
        title=f"Comparison of {len(found.table.rows)} runs",
        subtitle=_subtitle(found),
        notes=found.table.notes,
        views=[(view.title, len(view.variants)) for view in views],
        all_settings=len(found.design.variants),
        metrics=[title(metric) for metric in found.metrics],
        factors=found.design.factors,
        reference=found.reference,
        parts=parts,
        meanings={name: meaning(name, settings.confidence, settings.resamples) for name in MEANINGS},
        confidence=f"{100 * settings.confidence:g} %",
        drawn=Markup(_data(found)),
        interacting=any(study.interactions for study in found.studies),
        left_out=found.table.left_out,
        gaps=incomplete(found.gaps),
        never_run=never_run(found.gaps),
        head=_columns(found),
        rows=_rows(found),
    )
    write_text(path, page)
    return path


def _subtitle(found: Comparison) -> str:
    rows = found.design.rows
    varied = " × ".join(f"{name} ({rows[name].nunique()})" for name in found.design.factors) or "seeds alone"
    seeds = rows["seed"].nunique()
    data = found.design.blocks
    on = ", ".join(data) if len(data) <= 4 else f"{len(data)} data sets"
    return f"{varied}, on {on}; {seeds} seed{'s' if seeds != 1 else ''}"


def _data(found: Comparison) -> str:
    """What the page's script draws: (view, metric) -> interactions."""
    places = {view.title: i for i, view in enumerate(found.views)}
    drawn = {
        f"{places[study.view.title]}/{found.metrics.index(study.metric)}": _interactions(study)
        for study in found.studies
    }
    known = {"metrics": [{"title": title(m), "digits": digits(m)} for m in found.metrics], "interactions": drawn}
    return json.dumps(known, separators=(",", ":")).replace("<", "\\u003c")


def _interactions(study: Study) -> list[dict[str, Any]]:
    return [
        {
            "factors": one.factors,
            "levels": one.levels,
            "whole": one.whole,
            "cells": [
                [c.first, c.second, round(c.mean, 6), *_ends(c.interval.low, c.interval.high, c.interval.known), c.runs]
                for c in one.cells
            ],
        }
        for one in study.interactions
    ]


def _ends(low: float, high: float, known: bool) -> list[float | None]:
    return [round(low, 6), round(high, 6)] if known else [None, None]


def _columns(found: Comparison) -> list[str]:
    costs = [name for name in COSTS if name in found.table.rows and name not in found.metrics]
    return ["run", "data", *found.design.factors, "seed", *found.metrics, *costs]


def _rows(found: Comparison) -> list[list[tuple[str, float | None]]]:
    """(text, sort key or None for text) of all runs."""
    names = _columns(found)
    measured = {*found.metrics, *COSTS, "seed"}
    ranks = {f: {v: i for i, v in enumerate(levels(list(found.table.rows[f])))} for f in found.design.factors}
    shown = []
    for row in found.table.rows[names].to_dict("records"):
        cells = []
        for name in names:
            if name in ranks:
                cells.append((row[name], ranks[name][row[name]]))
            elif name in measured:
                text = str(row[name]) if name == "seed" else value(row[name], digits(name))
                cells.append((text, None if row[name] != row[name] else row[name]))
            else:
                cells.append((str(row[name]), None))
        shown.append(cells)
    return shown
