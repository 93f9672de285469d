"""What a study says, in sentences, above all what it cannot say; and numbers as a person reads them."""

from __future__ import annotations

import math

from anomalib_lite.comparison.statistics import SIGNIFICANT, detectable, pairs_needed
from anomalib_lite.comparison.study import Study

NAMED = 4  # settings listed in a sentence
TITLES = {
    "image_auroc": "Image AUROC",
    "pixel_auroc": "Pixel AUROC",
    "aupro": "AUPRO",
    "image_ap": "Image AP",
    "pixel_ap": "Pixel AP",
    "image_f1_max": "Image F1-max",
    "pixel_f1_max": "Pixel F1-max",
    "image_f1": "Image F1 at the threshold",
    "image_false_alarm_rate": "False-alarm rate",
    "image_detection_rate": "Detection rate",
    "train_seconds": "Training time (s)",
    "ms_per_image": "Time an image (ms)",
    "model_mb": "Model (MB)",
}
DIGITS = {"train_seconds": 0, "ms_per_image": 1, "model_mb": 1}


def findings(study: Study) -> list[str]:
    """The best mean, what it beats, and which differences so few seeds cannot show."""
    best, many = study.best, len(study.summaries)
    interval = f", 95 % interval {best.low:.4f} to {best.high:.4f} (Student)" if math.isfinite(best.low) else ""
    said = [f"{'Best mean' if many > 1 else 'Only one setting'}: {best.setting}, {best['mean']:.4f}{interval}."]
    if many == 1:
        return said
    if single := int((study.summaries["seeds"] < 2).sum()) if best.seeds > 1 else 0:
        said.append(f"{single} of {many} settings have a single seed, and do not compete for the best.")
    said.append(_against_best(study))
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
        said.append(
            f"With {tested['pairs'].min()} pairs of runs no test free of assumptions can decide: the sign-flip test "
            f"cannot go below p = {tested['p_least'].max():.2g}, and needs {pairs_needed(rows)} pairs for {rows} "
            f"row{'s' if rows > 1 else ''}. What is concluded rests on differences between seeds being normally "
            "distributed."
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
        return (
            f"It differs from {'every other setting' if len(beaten) > 1 else beaten[0]} by more than chance explains."
        )
    listed = "; ".join(unclear[:NAMED]) + (f" and {len(unclear) - NAMED} more" if len(unclear) > NAMED else "")
    head = f"It differs from {f'{len(beaten)} of {len(own)}' if beaten else 'no'} other settings"
    return f"{head} by more than chance explains; not told apart from: {listed}."


def title(metric: str) -> str:
    return TITLES.get(metric, metric.replace("_image_auroc", ": image AUROC").replace("_", " "))


def digits(metric: str) -> int:
    return DIGITS.get(metric, 4)


def number(value: float | None, places: int, signed: bool = False) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:{'+' if signed else ''}.{places}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("+-−")


def span(low: float | None, high: float | None, places: int, signed: bool = False) -> str:
    """An interval."""
    if low is None or not math.isfinite(low):
        return "–"
    return f"{number(low, places, signed)} to {number(high, places, signed)}"


def probability(p: float) -> str:
    """A p value."""
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
