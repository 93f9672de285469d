"""What a study says, in sentences; above all what it cannot say."""

from __future__ import annotations

from anomalib_lite.comparison.compare import Study
from anomalib_lite.comparison.paired import SIGNIFICANT, Difference, pairs_needed
from anomalib_lite.comparison.pairs import Pair
from anomalib_lite.comparison.power import detectable

NAMED = 4  # settings listed in a sentence


def findings(study: Study) -> list[str]:
    """The best mean, what it beats, and how far so few seeds can be trusted."""
    best = study.best
    title = "Only one setting" if len(study.summaries) == 1 else "Best mean"
    interval = best.student
    range_ = f", 95 % interval {interval.low:.4f} to {interval.high:.4f} (Student)" if interval.known else ""
    said = [f"{title}: {best.variant}, {best.mean:.4f}{range_}."]
    if not study.pairs:
        return said
    if single := sum(s.seeds < 2 for s in study.summaries if best.seeds > 1):
        said.append(f"{single} of {len(study.summaries)} settings have a single seed, and do not compete for the best.")
    return [*said, *_against_best(study), *_cautions(study)]


def conclusive(study: Study) -> list[Pair]:
    return [pair for pair in study.pairs if pair.significant]


def found(study: Study) -> list[Difference]:
    return [pair.found for pair in study.pairs if pair.found is not None]


def visible(study: Study, seeds: int) -> float | None:
    """The least difference that so many seeds would show four times in five, at the spread seen here and with the
    correction for all pairs; None where no spread is known.
    """
    spreads = sorted(d.deviation for d in found(study) if d.varies == "seeds")
    if not spreads or spreads[len(spreads) // 2] == 0:
        return None
    typical = spreads[len(spreads) // 2]
    return typical * detectable(seeds, len(study.view.blocks), SIGNIFICANT / len(study.pairs))


def _against_best(study: Study) -> list[str]:
    own = [pair for pair in study.pairs if study.best.variant in (pair.a, pair.b)]
    others = {pair: pair.b if pair.a == study.best.variant else pair.a for pair in own}
    beaten = [name for pair, name in others.items() if pair.significant]
    unclear = [name for pair, name in others.items() if not pair.significant]
    if len(own) < len(study.summaries) - 1:  # a reference was asked for, which is not the best one
        count = len(conclusive(study))
        return [f"{count} of {len(study.pairs)} settings differ from the reference."]
    if not unclear:
        named = "every other setting" if len(beaten) > 1 else beaten[0]
        return [f"It differs from {named} by more than chance explains."]
    listed = "; ".join(unclear[:NAMED]) + (f" and {len(unclear) - NAMED} more" if len(unclear) > NAMED else "")
    head = f"It differs from {f'{len(beaten)} of {len(own)}' if beaten else 'no'} other settings"
    return [f"{head} by more than chance explains; not told apart from: {listed}."]


def _cautions(study: Study) -> list[str]:
    differences = found(study)
    if all(not d.varies for d in differences):
        return ["One seed a setting: nothing can be said about chance. Three seeds are the least, five are better."]
    said = []
    fewest = min(d.pairs for d in differences)
    if any(not (pair.flips_decide or pair.found is None) for pair in study.pairs):
        least, rows = max(d.p_least for d in differences), len(study.pairs)
        said.append(
            f"With {fewest} pairs of runs no test free of assumptions can decide: the sign-flip test cannot go below "
            f"p = {least:.2g}, and needs {pairs_needed(rows)} pairs for {rows} row{'s' if rows > 1 else ''}. What is "
            "concluded rests on differences between seeds being normally distributed."
        )
    if len(study.pairs) >= len(study.summaries) > 3:
        said.append(
            f"The p values are corrected for {len(study.pairs)} pairs; against one setting, reference='...', there "
            f"would be {len(study.summaries) - 1}, and more could be concluded."
        )
    seeds = min(s.seeds for s in study.summaries)
    if seeds > 1 and (least := visible(study, seeds)):
        said.append(
            f"A difference below {least:.2g} would be missed more often than once in five with {seeds} seeds: what is "
            "not told apart here may still differ by that much."
        )
    return said
