"""Tables as Markdown: for a README, and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from anomalib_lite.comparison.compare import Comparison
from anomalib_lite.comparison.design import View
from anomalib_lite.comparison.missing import incomplete, never_run
from anomalib_lite.comparison.pairs import Pair
from anomalib_lite.comparison.table import COSTS
from anomalib_lite.comparison.words import digits


def pivot(found: Comparison, view: View, costs: Sequence[str] = ("train_seconds",)) -> str:
    """A row a setting: mean and, over at least two seeds, standard deviation between seeds."""
    studies = found.of(view)
    names = [*studies, *(name for name in costs if name in found.table.rows and name not in studies)]
    variants = list(dict.fromkeys(s.variant for study in studies.values() for s in study.summaries))
    rows = []
    for variant in variants:
        own = found.design.rows[found.design.rows["data"].isin(view.blocks) & (found.design.rows["variant"] == variant)]
        seeds = own.groupby("data")["seed"].nunique().unique()
        cells = [_mean(own.groupby("data")[name].agg(["mean", "var", "count"]), digits(name)) for name in names]
        levels = [found.design.level(variant, factor) for factor in found.design.factors] or [variant]
        rows.append([*levels, "/".join(map(str, sorted(seeds))), *cells])
    return table([*(found.design.factors or ["setting"]), "seeds", *names], rows)


def against_reference(found: Comparison, view: View) -> str:
    """A row a setting: its difference to the reference, paired by seed, with Student's interval; an asterisk where
    Holm's p is below 0.05.
    """
    studies = found.of(view)
    chosen: dict[str, dict[str, Pair]] = {}
    for metric, study in studies.items():
        for pair in study.pairs:
            if pair.b == found.reference:
                chosen.setdefault(pair.a, {})[metric] = pair
    rows = []
    for variant, pairs in chosen.items():
        counts = sorted({0 if p.found is None else p.found.pairs for p in pairs.values()})
        cells = [_difference(pairs.get(metric), digits(metric)) for metric in studies]
        rows.append([variant, "/".join(map(str, counts)), *cells])
    return table([f"against {found.reference}", "pairs", *studies], rows) if rows else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of one width, so that a terminal shows it as well."""
    whole = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in whole) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in whole
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _mean(groups: Mapping[str, object], places: int) -> str:
    """groups: mean, var and count of each data set."""
    mean = groups["mean"].mean()  # type: ignore[attr-defined]
    if math.isnan(mean):
        return "–"
    several = groups[groups["count"] > 1]  # type: ignore[index]
    freedom = (several["count"] - 1).sum()
    if not freedom:
        return f"{mean:.{places}f}"
    deviation = math.sqrt((several["var"] * (several["count"] - 1)).sum() / freedom)
    return f"{mean:.{places}f} ± {deviation:.{places}f}"


def _difference(pair: Pair | None, places: int) -> str:
    if pair is None or pair.found is None:
        return "–"
    interval = pair.found.interval
    half = f" ± {(interval.high - interval.low) / 2:.{places}f}" if interval.known else ""
    return f"{pair.found.mean:+.{places}f}{half}{' *' if pair.significant else ''}"


def document(found: Comparison, sentences: Mapping[tuple[str, str], Sequence[str]]) -> str:
    """compare.md. sentences: (view, metric) -> findings."""
    runs, seeds = len(found.table.rows), found.table.rows["seed"].nunique()
    lines = [f"# Comparison of {runs} runs", ""]
    lines += [f"Varied: {', '.join(found.design.factors) or 'seeds alone'}; {seeds} seeds.", ""]
    lines += [f"- {note}" for note in found.table.notes] + ([""] if found.table.notes else [])
    for view in found.views:
        lines += [f"## {view.title[:1].upper()}{view.title[1:]}", ""]
        lines += ["Mean ± standard deviation between seeds.", "", pivot(found, view, COSTS), ""]
        if found.reference and (differences := against_reference(found, view)):
            lines += ["Paired by seed, with Student's interval; * where Holm's p < 0.05.", "", differences, ""]
        for metric, study in found.of(view).items():
            lines += [f"**{metric}.** {' '.join(sentences[study.view.title, metric])}", ""]
    return "\n".join([*lines, *_missing(found)]) + "\n"


def _missing(found: Comparison) -> list[str]:
    lines = []
    if found.table.left_out:
        lines += ["## Left out", "", table(["run", "state", "reason"], found.table.left_out), ""]
    if gaps := incomplete(found.gaps):
        words = [[" ".join(map(str, seeds)) for seeds in (gap.there, gap.absent)] for gap in gaps]
        rows = [[gap.block, gap.variant, *seeds] for gap, seeds in zip(gaps, words, strict=True)]
        lines += ["## Seeds missing", "", table(["data", "setting", "seeds there", "seeds missing"], rows), ""]
    if absent := never_run(found.gaps):
        lines += ["## Not run on all data", ""]
        lines += [f"- {block}: {'; '.join(names)}" for block, names in absent.items()]
    return lines
