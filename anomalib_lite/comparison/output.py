"""Everything that a comparison leaves behind, and what it says in the terminal."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from anomalib_lite.comparison.compare import Comparison
from anomalib_lite.comparison.figures import means_figure
from anomalib_lite.comparison.findings import findings
from anomalib_lite.comparison.markdown import document, pivot
from anomalib_lite.comparison.missing import incomplete, never_run
from anomalib_lite.comparison.page import write_page
from anomalib_lite.comparison.shown import best_commands
from anomalib_lite.comparison.table import write_csv, write_table
from anomalib_lite.report.ink import save_png
from anomalib_lite.runs.atomic import write_text


def write_all(found: Comparison, folder: Path) -> str:
    """Writes compare.html, compare.md, runs.csv, runs.parquet, pairs.csv and figures/; returns the terminal's words."""
    write_table(found.table.rows, folder)
    write_csv(pairs_table(found), folder / "pairs.csv")
    sentences = {(study.view.title, study.metric): findings(study) for study in found.studies}
    write_text(folder / "compare.md", document(found, sentences))
    for metric in found.metrics:
        save_png(means_figure(found, metric), folder / "figures" / f"{metric}.png")
    page = write_page(found, folder / "compare.html")
    return f"{terminal(found)}\n\n{page}"


def terminal(found: Comparison) -> str:
    """The pivot of each data set, then the findings on the first metric."""
    lines = []
    for view in found.views:
        lines += ["", view.title, pivot(found, view)]
    lead = found.studies[0]
    lines += ["", f"{lead.metric}, {lead.view.title}:", *(f"  {sentence}" for sentence in findings(lead))]
    lines += [f"  {command}" for _, command in best_commands(found, lead)]
    counts = {
        "runs left out": len(found.table.left_out),
        "settings that lack seeds": len(incomplete(found.gaps)),
        "settings not run on all data": sum(map(len, never_run(found.gaps).values())),
    }
    if told := ", ".join(f"{count} {words}" for words, count in counts.items() if count):
        lines += ["", f"{told}: see compare.md"]
    return "\n".join([*lines, *(["", *found.table.notes] if found.table.notes else [])])


def pairs_table(found: Comparison) -> pd.DataFrame:
    """One row a pair of settings, data and metric."""
    rows = []
    for study in found.studies:
        for pair in study.pairs:
            row = {"data": study.view.title, "metric": study.metric, "setting": pair.a, "less": pair.b}
            d = pair.found
            if d is not None:
                row |= {"difference": d.mean, "low": d.interval.low, "high": d.interval.high, "pairs": d.pairs}
                row |= {"p_student": d.p_student, "p_sign_flips": d.p_flips, "p_holm": pair.p_holm}
                row |= {"holm_of": "both" if pair.flips_decide else "Student"}
            improvement = pair.improvement_interval
            row |= {"improvement": pair.improvement, "improvement_low": improvement.low}
            rows.append(row | {"improvement_high": improvement.high, "verdict": pair.verdict})
    return pd.DataFrame(rows)
