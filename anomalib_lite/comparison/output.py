"""Everything that a comparison leaves behind, and what it says in the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from anomalib_lite.comparison.design import View
from anomalib_lite.comparison.figures import means_figure
from anomalib_lite.comparison.findings import cautions, digits, findings
from anomalib_lite.comparison.page import write_page
from anomalib_lite.comparison.runs import COSTS, Run
from anomalib_lite.comparison.study import Comparison, Study
from anomalib_lite.comparison.table import write_csv
from anomalib_lite.report.ink import save_png
from anomalib_lite.runs.atomic import atomic_path, write_text
from anomalib_lite.runs.overrides import PROGRAM, command_line

# where things lie, which run of several it was, how it was tracked
NOT_SAID = ("seed", "paths", "tracking", "force", "experiment_name", "hydra", "run_name")


def write_all(found: Comparison, folder: Path) -> str:
    """Writes the page, compare.md, the tables (runs, pairs, images) and figures/; returns the terminal's words."""
    write_csv(found.table.rows, folder / "runs.csv")
    with atomic_path(folder / "runs.parquet") as temporary:
        found.table.rows.to_parquet(temporary, index=False)
    pairs = [study.pairs.assign(data=study.view.title, metric=study.metric) for study in found.studies]
    write_csv(pd.concat(pairs).reindex(columns=["data", "metric", *pairs[0].columns[:-2]]), folder / "pairs.csv")
    write_csv(found.images, folder / "images.csv")
    write_text(folder / "compare.md", document(found))
    for metric in found.metrics:
        save_png(means_figure(found, metric), folder / "figures" / f"{metric}.png")
    commands = [best_commands(found, study) for study in found.studies]
    page = write_page(found, commands, folder / "compare.html")
    return f"{terminal(found)}\n\n{page}"


def terminal(found: Comparison) -> str:
    """The pivot of each data set, then the findings on the first metric."""
    lines = []
    for view in found.views:
        lines += ["", view.title, pivot(found, view)]
    lead = found.studies[0]
    lines += ["", f"{lead.metric}, {lead.view.title}:", *(f"  {said}" for said in findings(lead) + cautions(lead))]
    lines += [f"  {command}" for _, command in best_commands(found, lead)]
    lacking = found.design.gaps()
    counts = {
        "runs left out": len(found.table.left_out),
        "settings that lack seeds": (lacking["seeds there"] != "").sum(),
        "settings not run on all data": (lacking["seeds there"] == "").sum(),
    }
    if missing := ", ".join(f"{count} {words}" for words, count in counts.items() if count):
        lines += ["", f"{missing}: see compare.md"]
    return "\n".join([*lines, *(["", *found.table.notes] if found.table.notes else [])])


def best_commands(found: Comparison, study: Study) -> list[tuple[str, str]]:
    """(data set, command) of the best setting, where the runs recorded how they were asked for."""
    rows, commands = found.design.rows, []
    for block in study.view.blocks:
        own = rows.index[(rows["data"] == block) & (rows["variant"] == study.best.setting)]
        if len(own) and (line := command(found.table.runs[own[0]])):
            commands.append((block, line))
    return commands


def command(run: Run) -> str:
    """A line for a shell: the recorded overrides, less what changes no result; empty without a record."""
    said = [o for o in run.overrides if re.split(r"[.@=/]", o.lstrip("+~"), maxsplit=1)[0] not in NOT_SAID]
    return command_line([PROGRAM, "train", *said]) if run.choices else ""


def pivot(found: Comparison, view: View, costs: Sequence[str] = ("train_seconds",)) -> str:
    """A row a setting: mean and, over at least two seeds, standard deviation between seeds."""
    design, studies = found.design, found.of(view)
    names = [*studies, *(name for name in costs if name in design.rows and name not in studies)]
    rows = []
    for variant in dict.fromkeys(v for study in studies.values() for v in study.summaries["setting"]):
        own = design.rows[design.rows["data"].isin(view.blocks) & (design.rows["variant"] == variant)].groupby("data")
        seeds = "/".join(map(str, sorted(own["seed"].nunique().unique())))
        cells = [_mean(own[name].agg(["mean", "var", "count"]), digits(name)) for name in names]
        rows.append([*(design.variants[variant].values() or [variant]), seeds, *cells])
    return markdown([*(design.factors or ["setting"]), "seeds", *names], rows)


def against_reference(found: Comparison, view: View) -> str:
    """A row a setting: its difference to the reference, paired by seed, with Student's interval; an asterisk where
    Holm's p is below 0.05.
    """
    studies = found.of(view)
    cells: dict[str, dict[str, str]] = {}
    for metric, study in studies.items():
        for pair in study.pairs.to_dict("records"):
            if pair["less"] == found.reference:
                half, places = (pair["high"] - pair["low"]) / 2, digits(metric)
                said = "–" if not pair["pairs"] else f"{pair['difference']:+.{places}f}"
                said += (f" ± {half:.{places}f}" if math.isfinite(half) else "") + " *" * pair["significant"]
                cells.setdefault(pair["setting"], {"pairs": str(pair["pairs"])})[metric] = said
    rows = [[name, row["pairs"], *(row.get(metric, "–") for metric in studies)] for name, row in cells.items()]
    return markdown([f"against {found.reference}", "pairs", *studies], rows) if rows else ""


def markdown(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table whose columns have one width, so that a terminal shows it as well."""
    whole = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in whole]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def document(found: Comparison) -> str:
    """compare.md."""
    runs, seeds = len(found.table.rows), found.table.rows["seed"].nunique()
    lines = [f"# Comparison of {runs} runs", ""]
    lines += [f"Varied: {', '.join(found.design.factors) or 'seeds alone'}; {seeds} seeds.", ""]
    lines += [f"- {note}" for note in found.table.notes] + ([""] if found.table.notes else [])
    for view in found.views:
        studies = found.of(view)
        lines += [f"## {view.title[:1].upper()}{view.title[1:]}", ""]
        lines += ["Mean ± standard deviation between seeds.", "", pivot(found, view, COSTS), ""]
        if found.reference and (differences := against_reference(found, view)):
            lines += ["Paired by seed, with Student's interval; * where Holm's p < 0.05.", "", differences, ""]
        for metric, study in studies.items():
            lines += [f"**{metric}.** {' '.join(findings(study))}", ""]
        lines += [f"{said}\n" for said in dict.fromkeys(said for study in studies.values() for said in cautions(study))]
    if found.table.left_out:
        lines += ["## Left out", "", markdown(["run", "state", "reason"], found.table.left_out), ""]
    gaps = found.design.gaps()
    if len(gaps):
        lines += ["## Not run", "", markdown(gaps.columns, gaps.itertuples(index=False)), ""]
    return "\n".join(lines)


def _mean(groups: pd.DataFrame, places: int) -> str:
    """groups: mean, var and count of each data set."""
    mean, freedom = groups["mean"].mean(), groups["count"] - 1
    if math.isnan(mean):
        return "–"
    if not freedom.clip(0).sum():
        return f"{mean:.{places}f}"
    return f"{mean:.{places}f} ± {math.sqrt((groups['var'] * freedom).sum() / freedom.clip(0).sum()):.{places}f}"
