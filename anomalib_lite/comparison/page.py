"""What a comparison leaves behind: compare.html with all in it, compare.md, its tables and figures."""

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

SEEDS = (3, 5, 10, 20)  # for which the visible difference is told
Cell = tuple[str, Any]  # a text and its sort key, None where the text itself is the key
Sheet = dict[str, Any]  # a table of the page: head, rows, and how many columns hold words
# heading -> kind and name of `_column`
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


def write_all(found: Comparison, folder: Path) -> str:
    """Writes the page, compare.md, the tables (runs, pairs, images) and figures/; returns compare.md and
    where the page lies."""
    write_csv(found.table.rows, folder / "runs.csv")
    with atomic_path(folder / "runs.parquet") as temporary:
        found.table.rows.to_parquet(temporary, index=False)
    pairs = [study.pairs.assign(data=study.view.title, metric=study.metric) for study in found.studies]
    write_csv(pd.concat(pairs).reindex(columns=["data", "metric", *pairs[0].columns[:-2]]), folder / "pairs.csv")
    write_csv(found.images, folder / "images.csv")
    document = words.document(found)
    write_text(folder / "compare.md", document)
    for metric in found.metrics:
        ink.save_png(figures.means_figure(found, metric), folder / "figures" / f"{metric}.png")
    page = folder / "compare.html"
    write_text(page, render_page(found))
    return f"{document}\n\n{page}"


def render_page(found: Comparison) -> str:
    table = found.table
    varied = " × ".join(f"{name} ({table.rows[name].nunique()})" for name in table.factors) or "seeds alone"
    seeds = table.rows["seed"].nunique()
    on = ", ".join(table.blocks) if len(table.blocks) <= 4 else f"{len(table.blocks)} data sets"
    return ink.template("compare.html.j2").render(
        title=f"Comparison of {len(table.rows)} runs",
        subtitle=f"{varied}, on {on}; {seeds} seed{'s' if seeds != 1 else ''}",
        notes=table.notes,
        views=[(view.title, len(view.variants)) for view in found.views],
        all_settings=len(table.variants),
        metrics=[title(metric) for metric in found.metrics],
        reference=found.reference,
        parts=[_part(found, study) for study in tqdm(found.studies, "page", delay=2, leave=False)],
        resamples=f"{found.resamples:,}",
        left_out=_sheet(pd.DataFrame(table.left_out, columns=["run", "state", "reason"])),
        gaps=_sheet(find_gaps(table)),
        images=_sheet(found.images, ["data", "setting", "seed", "verdict"], IMAGES),
        margin=found.margin,
        runs=_runs(found),
    )


def _part(found: Comparison, study: Study) -> dict[str, Any]:
    """What the template lays out of one study."""
    needed, places = [(n, words.visible(study, n)) for n in SEEDS], digits(study.metric)
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
        "view": [view.title for view in found.views].index(study.view.title),
        "metric": found.metrics.index(study.metric),
        "commands": words.best_commands(found, study),
        "sentences": words.findings(study) + words.cautions(study),
        "settings": _settings(found, study),
        "effects": _effects(study) if len(study.effects) else None,
        "pairs": _pairs(study) if len(study.pairs) else None,
        "seeds": [(n, number(least, places)) for n, least in needed if least],
    } | {
        name: Markup(ink.to_svg(draw(study))) if there else ""  # noqa: S704 - our own drawing
        for name, (draw, there) in drawn.items()
    }


def _settings(found: Comparison, study: Study) -> Sheet:
    rows, factors = study.summaries.sort_values(["best", "mean"], ascending=False), found.table.factors
    chosen = pd.DataFrame([found.table.variants[s] for s in rows["setting"]], rows.index, factors)
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


def _runs(found: Comparison) -> Sheet:
    rows, factors = found.table.rows, found.table.factors
    costs = [name for name in COSTS if name in rows and name not in found.metrics]
    shown = {"seed": ("count", "seed")} | {name: ("metric", name) for name in (*found.metrics, *costs)}
    return _sheet(rows, ["run", "data", *factors], shown)


def _sheet(
    rows: pd.DataFrame,
    texts: Sequence[str] | None = None,
    shown: Mapping[str, tuple[str, str]] | None = None,
    places: int = 4,
    marked: pd.Series | None = None,
) -> Sheet:
    """texts: the columns of words on the left, by default all. shown: heading -> (kind, name) of `_column`."""
    texts, shown = list(rows) if texts is None else texts, shown or {}
    columns = [[(str(text), None) for text in rows[name]] for name in texts]
    columns += [_column(rows, kind, name, places) for kind, name in shown.values()]
    marks = [False] * len(rows) if marked is None else list(marked)
    cells = list(zip(*columns, strict=True))
    lines = [{"marked": mark, "cells": line} for mark, line in zip(marks, cells, strict=True)]
    return {"head": [*texts, *shown], "rows": lines, "words": len(texts)}


def _column(rows: pd.DataFrame, kind: str, name: str, places: int) -> list[Cell]:
    """kind: p, share, (gain) range, value, gain, metric or count; name: the column, or what an interval's two begin
    with. The key of NaN is empty, which stays at the end of every order.
    """
    signed, places = kind.startswith("gain"), {"metric": digits(name), "count": 0, "share": 2}.get(kind, places)
    values = rows[f"{name}low" if kind.endswith("range") else name]
    if kind.endswith("range"):
        said = [words.span(low, high, places, signed) for low, high in zip(values, rows[f"{name}high"], strict=True)]
    elif kind == "share":
        spans = _column(rows, "range", f"{name}_", places)
        said = [f"{number(share, places)} ({ends})" for share, (ends, _) in zip(values, spans, strict=True)]
    else:
        said = [words.probability(v) if kind == "p" else number(v, places, signed) for v in values]
    return [(text, "" if math.isnan(value) else value) for text, value in zip(said, values, strict=True)]
