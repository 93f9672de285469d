"""Every statistic of the page in one sentence, and numbers as a person reads them."""

from __future__ import annotations

import math

from anomalib_lite.comparison.strata import Interval

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

MEANINGS = {
    "mean": "Mean over seeds; over several data sets, the mean of their means, so that each counts the same.",
    "deviation": "Standard deviation between seeds, pooled over the data sets.",
    "bootstrap": "Bootstrap: the middle {confidence} of the means of {resamples} tables in which each data set's seeds "
    "were drawn again with replacement; too narrow with few seeds: from 3 of one data set, 95 % intervals hold the "
    "true mean 3 times in 4.",
    "student": "Student: mean ± t × standard error, which holds {confidence} of true means if seeds vary normally, "
    "however few they are.",
    "iqm": "Interquartile mean: of all runs of a setting, the mean of the middle half, which single bad runs do "
    "not move.",
    "effect": "Difference to the factor's first level, everything else (other factors, data, seed) being equal, "
    "averaged over everything else.",
    "pair": "Difference of means over seeds and data that both settings have, with Student's interval.",
    "p": "Student: how often chance alone makes the paired t at least that large, if differences between seeds are "
    "normally distributed.",
    "flips": "Sign flips: the exact share of all sign patterns of the differences with a mean at least as large; it "
    "needs no normality, but many pairs: n of them allow no p below 2 / 2^n.",
    "holm": "Holm: the larger p of both tests, or Student's where the pairs are too few for sign flips to decide, "
    "corrected for the number of rows; below 0.05, at most one table in twenty without any effect shows one.",
    "improvement": "Probability of improvement: how often a run of the first setting is better than one of the second "
    "on the same data, ties counting half; with its bootstrap interval.",
    "interaction": "Means over seeds and all other factors, with Student's intervals; parallel lines mean that one "
    "factor does not change what the other does.",
    "pareto": "On the front lies what no other setting beats in quality without costing more; milliseconds are "
    "medians over runs, megabytes those of the saved model.",
    "seeds": "The difference that so many seeds would show four times in five, at the spread seen here and "
    "corrected for all rows of the table of pairs.",
}


def title(metric: str) -> str:
    return TITLES.get(metric, metric.replace("_image_auroc", ": image AUROC").replace("_", " "))


def meaning(name: str, confidence: float, resamples: int) -> str:
    return MEANINGS[name].format(confidence=f"{100 * confidence:g} %", resamples=f"{resamples:,}")


def digits(metric: str) -> int:
    return DIGITS.get(metric, 4)


def value(number: float, places: int, signed: bool = False) -> str:
    if not math.isfinite(number):
        return "–"
    text = f"{number:{'+' if signed else ''}.{places}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("+-−")


def interval(found: Interval | None, places: int, signed: bool = False) -> str:
    if found is None or not found.known:
        return "–"
    return f"{value(found.low, places, signed)} to {value(found.high, places, signed)}"


def probability(p: float) -> str:
    """A p value."""
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
