"""Sentences and tables of a comparison: findings and their limits, compare.md, and formatted numbers."""

import math
import re
from collections.abc import Iterable, Sequence

from anomalib_lite.comparison.runs import COSTS, Run
from anomalib_lite.comparison.statistics import CONFIDENCE, SIGNIFICANT, STUDENT, detectable, mean, pairs_needed, within
from anomalib_lite.comparison.study import Comparison, Study, View
from anomalib_lite.comparison.table import find_gaps
from anomalib_lite.runs.overrides import PROGRAM, command_line

NAMED = 4  # settings listed in a sentence
# decimals of a column
DIGITS = {"train_seconds": 0, "ms_per_image": 1, "model_mb": 1, "seed": 0, "runs": 0, "contexts": 0, "improvement": 2}
# overrides that are left out of a command because they do not change the result
IRRELEVANT = ("seed", "paths", "tracking", "force", "experiment_name", "hydra", "run_name")


def findings(study: Study) -> list[str]:
    """Returns sentences on the best mean, what it beats, and which differences the number of seeds cannot show."""
    best, many = study.best, len(study.summaries)
    ends = f"{100 * CONFIDENCE:g} % interval {best.low:.4f} to {best.high:.4f} (Student)"
    interval = f", {ends}" if math.isfinite(best.low) else ""
    sentences = [f"{'Best mean' if many > 1 else 'Only one setting'}: {best.setting}, {best['mean']:.4f}{interval}."]
    if many == 1:
        return sentences
    if single := int((study.summaries["seeds"] < 2).sum()) if best.seeds > 1 else 0:
        sentences.append(f"{single} of {many} settings have a single seed and are not considered for the best.")
    sentences.append(_against_best(study))
    if ranks := study.ranks:
        sentences.append(ranks.in_words())
    seeds = int(study.summaries["seeds"].min())
    least = visible(study, seeds) if seeds > 1 else None
    if least and not study.pairs["significant"].all():
        sentences.append(
            f"With {seeds} seeds, a difference below {least:.2g} would be missed in more than one case out of five: "
            "settings without a significant difference may still differ by that much."
        )
    return sentences


def cautions(study: Study) -> list[str]:
    """Returns sentences on the assumptions of the conclusions; they are equal for metrics of the same runs."""
    pairs, rows = study.pairs, len(study.pairs)
    if rows and not pairs["varies"].any():
        return ["With one seed per setting, nothing can be said about chance. Use at least three seeds, better five."]
    sentences, tested = [], pairs[pairs["pairs"] > 0]
    if (tested["holm_of"] == STUDENT).any():
        sentences.append(
            f"With {counted(tested['pairs'].min(), 'pair')} of runs, no test without assumptions can decide: the "
            f"sign-flip test cannot go below p = {tested['p_least'].max():.2g}, and needs {pairs_needed(rows)} pairs "
            f"for {counted(rows, 'row')}. The conclusions assume that differences between seeds are normally "
            "distributed."
        )
    if rows >= len(study.summaries) > 3:
        sentences.append(
            f"The p values are corrected for {rows} pairs. With reference='...', there would be only "
            f"{len(study.summaries) - 1}, and smaller differences would be significant."
        )
    return sentences


def visible(study: Study, seeds: int) -> float | None:
    """Returns the smallest difference that this number of seeds would show in four cases out of five.

    It assumes the observed standard deviation and corrects for all pairs; None if no deviation was observed.
    """
    if not (spreads := sorted(study.pairs.loc[study.pairs["varies"] == "seeds", "deviation"])):
        return None
    least = detectable(seeds, len(study.view.blocks), SIGNIFICANT / len(study.pairs))
    return spreads[len(spreads) // 2] * least or None


def _against_best(study: Study) -> str:
    best, pairs = study.best.setting, study.pairs
    compared = pairs[(pairs["setting"] == best) | (pairs["less"] == best)]
    if len(compared) < len(study.summaries) - 1:  # the pairs are those of a reference that is not the best setting
        return f"{pairs['significant'].sum()} of {len(pairs)} settings differ from the reference."
    others = compared["setting"].where(compared["setting"] != best, compared["less"])
    beaten, unclear = list(others[compared["significant"]]), list(others[~compared["significant"]])
    if not unclear:
        every = "every other setting" if len(beaten) > 1 else beaten[0]
        return f"It differs significantly from {every}."
    listed = "; ".join(unclear[:NAMED]) + (f" and {len(unclear) - NAMED} more" if len(unclear) > NAMED else "")
    head = f"It differs significantly from {f'{len(beaten)} of {len(compared)}' if beaten else 'no'} other settings"
    return f"{head}; no significant difference to: {listed}."


def best_commands(comparison: Comparison, study: Study) -> list[tuple[str, str]]:
    """Returns (data sets, command) of the best setting, if its runs recorded their overrides."""
    rows, commands = comparison.table.labelled, dict[str, list[str]]()
    for block in study.view.blocks:
        indices = rows.index[(rows["data"] == block) & (rows["variant"] == study.best.setting)]
        if len(indices) and (line := command(comparison.table.runs[indices[0]])):
            commands.setdefault(line, []).append(block)
    return [(", ".join(blocks), line) for line, blocks in commands.items()]


def command(run: Run) -> str:
    """Returns the shell command of a run, without overrides that do not change its result; empty without a record."""
    relevant = [o for o in run.overrides if re.split(r"[.@=/]", o.lstrip("+~"), maxsplit=1)[0] not in IRRELEVANT]
    return command_line([PROGRAM, "train", *relevant]) if run.choices else ""


def pivot(comparison: Comparison, view: View, costs: Sequence[str] = ("train_seconds",)) -> str:
    """Returns a table with one row per setting: mean and, with at least two seeds, standard deviation between seeds."""
    table, studies = comparison.table, comparison.of(view)
    names = [*studies, *(name for name in costs if name in table.rows and name not in studies)]
    runs = table.labelled[table.rows["data"].isin(view.blocks)]
    rows: list[list[object]] = []
    for variant in dict.fromkeys(v for study in studies.values() for v in study.summaries["setting"]):
        by_data = runs[runs["variant"] == variant].groupby("data")
        seeds = "/".join(map(str, sorted(by_data["seed"].nunique().unique())))
        cells = []
        for name in names:
            strata = [v for _, of_data in by_data[name] if len(v := of_data.dropna().to_numpy(float))]
            deviation, places = within(strata), DIGITS.get(name, 4)
            spread = f" ± {deviation:.{places}f}" if math.isfinite(deviation) else ""
            cells.append(f"{mean(strata):.{places}f}{spread}" if strata else "–")
        rows.append([*(table.variants[variant].values() or [variant]), seeds, *cells])
    return markdown([*(table.factors or ["setting"]), "seeds", *names], rows)


def against_reference(comparison: Comparison, view: View) -> str:
    """Returns a table with one row per setting: its difference to the reference, paired by seed, with Student's
    interval; an asterisk marks Holm's p below 0.05.
    """
    studies = comparison.of(view)
    cells: dict[str, dict[str, str]] = {}
    for metric, study in studies.items():
        for pair in study.pairs.to_dict("records"):
            if pair["less"] == comparison.reference:
                half, places = (pair["high"] - pair["low"]) / 2, DIGITS.get(metric, 4)
                text = "–" if not pair["pairs"] else f"{pair['difference']:+.{places}f}"
                text += (f" ± {half:.{places}f}" if math.isfinite(half) else "") + " *" * pair["significant"]
                cells.setdefault(pair["setting"], {"pairs": str(pair["pairs"])})[metric] = text
    rows = [[name, row["pairs"], *(row.get(metric, "–") for metric in studies)] for name, row in cells.items()]
    return markdown([f"against {comparison.reference}", "pairs", *studies], rows) if rows else ""


def markdown(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Returns a Markdown table with aligned columns, which is readable in a terminal, too."""
    whole = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in whole]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def document(comparison: Comparison) -> str:
    """Returns the text of compare.md, which is also printed to the terminal."""
    runs, seeds = len(comparison.table.rows), comparison.table.rows["seed"].nunique()
    lines = [f"# Comparison of {runs} runs", ""]
    lines += [f"Varied: {', '.join(comparison.table.factors) or 'seeds alone'}; {counted(seeds, 'seed')}.", ""]
    lines += ["Tables show means ± standard deviations between seeds.", ""]
    lines += [f"- {note}" for note in comparison.table.notes] + ([""] if comparison.table.notes else [])
    for view in comparison.views:
        studies = comparison.of(view)
        lines += [f"## {view.title[:1].upper()}{view.title[1:]}", ""]
        lines += [pivot(comparison, view, COSTS), ""]
        if comparison.reference and (differences := against_reference(comparison, view)):
            lines += ["Paired by seed, with Student's interval; * marks Holm's p < 0.05.", "", differences, ""]
        for metric, study in studies.items():
            lines += [f"**{metric}.** {' '.join(findings(study))}", ""]
    lines += [f"{text}\n" for text in dict.fromkeys(text for study in comparison.studies for text in cautions(study))]
    lead = comparison.studies[0]
    if commands := best_commands(comparison, lead):
        lines += [f"Best in {lead.metric}, {lead.view.title}:", "", *(f"    {line}" for _, line in commands), ""]
    if comparison.table.left_out:
        lines += ["## Left out", "", markdown(["run", "state", "reason"], comparison.table.left_out), ""]
    if len(gaps := find_gaps(comparison.table)):
        lines += ["## Not run", "", markdown(gaps.columns, gaps.itertuples(index=False)), ""]
    return "\n".join(lines)


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' if number != 1 else ''}"


def number(value: float, places: int, signed: bool = False) -> str:
    """Formats a number with a typographic minus; NaN becomes a dash, and zero has no sign."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:{'+' if signed else ''}.{places}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("+-−")


def span(low: float, high: float, places: int, signed: bool = False) -> str:
    return f"{number(low, places, signed)} to {number(high, places, signed)}" if math.isfinite(low) else "–"


def probability(p: float) -> str:
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
