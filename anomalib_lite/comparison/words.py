"""What a comparison says: findings, above all what it cannot say; compare.md; numbers."""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from anomalib_lite.comparison.design import View, find_gaps
from anomalib_lite.comparison.runs import COSTS, Run
from anomalib_lite.comparison.statistics import CONFIDENCE, SIGNIFICANT, detectable, mean, pairs_needed, within
from anomalib_lite.comparison.study import Comparison, Study
from anomalib_lite.runs.overrides import PROGRAM, command_line

NAMED = 4  # settings listed in a sentence
DIGITS = {"train_seconds": 0, "ms_per_image": 1, "model_mb": 1}
# where things lie, which run of several it was, how it was tracked
NOT_SAID = ("seed", "paths", "tracking", "force", "experiment_name", "hydra", "run_name")


def findings(study: Study) -> list[str]:
    """The best mean, what it beats, and which differences so few seeds cannot show."""
    best, many = study.best, len(study.summaries)
    ends = f"{100 * CONFIDENCE:g} % interval {best.low:.4f} to {best.high:.4f} (Student)"
    interval = f", {ends}" if math.isfinite(best.low) else ""
    said = [f"{'Best mean' if many > 1 else 'Only one setting'}: {best.setting}, {best['mean']:.4f}{interval}."]
    if many == 1:
        return said
    if single := int((study.summaries["seeds"] < 2).sum()) if best.seeds > 1 else 0:
        said.append(f"{single} of {many} settings have a single seed, and do not compete for the best.")
    said.append(_against_best(study))
    if ranks := study.ranks:
        said.append(ranks.in_words())
    seeds = int(study.summaries["seeds"].min())
    least = visible(study, seeds) if seeds > 1 else None
    if least and not study.pairs["significant"].all():
        said.append(
            f"A difference below {least:.2g} would be missed more often than once in five with {seeds} seeds: what is "
            "not told apart here may still differ by that much."
        )
    return said


def cautions(study: Study) -> list[str]:
    """What the conclusions rest on; the same for all metrics that were measured alike."""
    pairs = study.pairs
    if not len(pairs) or not pairs["varies"].any():
        alone = "One seed a setting: nothing can be said about chance. Three seeds are the least, five are better."
        return [alone] if len(pairs) else []
    said, rows = [], len(pairs)
    tested = pairs[pairs["pairs"] > 0]
    if (tested["holm_of"] == "Student alone").any():
        fewest = tested["pairs"].min()
        said.append(
            f"With {fewest} pair{'s' if fewest > 1 else ''} of runs no test free of assumptions can decide: the "
            f"sign-flip test cannot go below p = {tested['p_least'].max():.2g}, and needs {pairs_needed(rows)} pairs "
            f"for {rows} row{'s' if rows > 1 else ''}. What is concluded rests on differences between seeds being "
            "normally distributed."
        )
    if rows >= len(study.summaries) > 3:
        said.append(
            f"The p values are corrected for {rows} pairs; against one setting, reference='...', there would be "
            f"{len(study.summaries) - 1}, and more could be concluded."
        )
    return said


def visible(study: Study, seeds: int) -> float | None:
    """The least difference that so many seeds would show four times in five, at the spread seen here and with the
    correction for all pairs; None where no spread is known.
    """
    if not len(study.pairs):
        return None
    spreads = sorted(study.pairs.loc[study.pairs["varies"] == "seeds", "deviation"])
    typical = spreads[len(spreads) // 2] if spreads else 0.0
    return typical * detectable(seeds, len(study.view.blocks), SIGNIFICANT / len(study.pairs)) or None


def _against_best(study: Study) -> str:
    best, pairs = study.best.setting, study.pairs
    own = pairs[(pairs["setting"] == best) | (pairs["less"] == best)]
    if len(own) < len(study.summaries) - 1:  # a reference was asked for, which is not the best one
        return f"{pairs['significant'].sum()} of {len(pairs)} settings differ from the reference."
    others = own["setting"].where(own["setting"] != best, own["less"])
    beaten, unclear = list(others[own["significant"]]), list(others[~own["significant"]])
    if not unclear:
        every = "every other setting" if len(beaten) > 1 else beaten[0]
        return f"It differs from {every} by more than chance explains."
    listed = "; ".join(unclear[:NAMED]) + (f" and {len(unclear) - NAMED} more" if len(unclear) > NAMED else "")
    head = f"It differs from {f'{len(beaten)} of {len(own)}' if beaten else 'no'} other settings"
    return f"{head} by more than chance explains; not told apart from: {listed}."


def best_commands(found: Comparison, study: Study) -> list[tuple[str, str]]:
    """(data sets, command) of the best setting, where the runs recorded how they were asked for."""
    rows, commands = found.table.labelled, dict[str, list[str]]()
    for block in study.view.blocks:
        own = rows.index[(rows["data"] == block) & (rows["variant"] == study.best.setting)]
        if len(own) and (line := command(found.table.runs[own[0]])):
            commands.setdefault(line, []).append(block)
    return [(", ".join(blocks), line) for line, blocks in commands.items()]


def command(run: Run) -> str:
    """A line for a shell: the recorded overrides, less what changes no result; empty without a record."""
    said = [o for o in run.overrides if re.split(r"[.@=/]", o.lstrip("+~"), maxsplit=1)[0] not in NOT_SAID]
    return command_line([PROGRAM, "train", *said]) if run.choices else ""


def pivot(found: Comparison, view: View, costs: Sequence[str] = ("train_seconds",)) -> str:
    """A row a setting: mean and, over at least two seeds, standard deviation between seeds."""
    table, studies = found.table, found.of(view)
    names = [*studies, *(name for name in costs if name in table.rows and name not in studies)]
    runs = table.labelled[table.rows["data"].isin(view.blocks)]
    rows: list[list[object]] = []
    for variant in dict.fromkeys(v for study in studies.values() for v in study.summaries["setting"]):
        own = runs[runs["variant"] == variant].groupby("data")
        seeds = "/".join(map(str, sorted(own["seed"].nunique().unique())))
        cells = [_mean([v.dropna().to_numpy(float) for _, v in own[name]], digits(name)) for name in names]
        rows.append([*(table.variants[variant].values() or [variant]), seeds, *cells])
    return markdown([*(table.factors or ["setting"]), "seeds", *names], rows)


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
    """compare.md, which the terminal shows, too."""
    runs, seeds = len(found.table.rows), found.table.rows["seed"].nunique()
    lines = [f"# Comparison of {runs} runs", ""]
    counted = f"{seeds} seed{'s' if seeds != 1 else ''}"
    lines += [f"Varied: {', '.join(found.table.factors) or 'seeds alone'}; {counted}.", ""]
    lines += ["Tables show means ± standard deviations between seeds.", ""]
    lines += [f"- {note}" for note in found.table.notes] + ([""] if found.table.notes else [])
    for view in found.views:
        studies = found.of(view)
        lines += [f"## {view.title[:1].upper()}{view.title[1:]}", ""]
        lines += [pivot(found, view, COSTS), ""]
        if found.reference and (differences := against_reference(found, view)):
            lines += ["Paired by seed, with Student's interval; * where Holm's p < 0.05.", "", differences, ""]
        for metric, study in studies.items():
            lines += [f"**{metric}.** {' '.join(findings(study))}", ""]
    lines += [f"{said}\n" for said in dict.fromkeys(said for study in found.studies for said in cautions(study))]
    lead = found.studies[0]
    if commands := best_commands(found, lead):
        lines += [f"Best in {lead.metric}, {lead.view.title}:", "", *(f"    {line}" for _, line in commands), ""]
    if found.table.left_out:
        lines += ["## Left out", "", markdown(["run", "state", "reason"], found.table.left_out), ""]
    gaps = find_gaps(found.table)
    if len(gaps):
        lines += ["## Not run", "", markdown(gaps.columns, gaps.itertuples(index=False)), ""]
    return "\n".join(lines)


def _mean(strata: Sequence[np.ndarray], places: int) -> str:
    known = [values for values in strata if len(values)]
    deviation = within(known)
    spread = f" ± {deviation:.{places}f}" if math.isfinite(deviation) else ""
    return f"{mean(known):.{places}f}{spread}" if known else "–"


def digits(metric: str) -> int:
    return DIGITS.get(metric, 4)


def number(value: float, places: int, signed: bool = False) -> str:
    if not math.isfinite(value):
        return "–"
    text = f"{value:{'+' if signed else ''}.{places}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("+-−")


def span(low: float, high: float, places: int, signed: bool = False) -> str:
    """An interval."""
    return f"{number(low, places, signed)} to {number(high, places, signed)}" if math.isfinite(low) else "–"


def probability(p: float) -> str:
    """A p value."""
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
