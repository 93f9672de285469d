"""Sentences and tables of a run's page; the template only lays them out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomalib_lite.data.sample import Outcome
from anomalib_lite.report.cases import verdict
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.runs.overrides import command_line

if TYPE_CHECKING:
    from anomalib_lite.scoring import Threshold  # with torch

NOT_THERE = "–"
_TITLES = {
    "image_auroc": "Image AUROC", "pixel_auroc": "Pixel AUROC", "aupro": "AUPRO", "auspro": "AU-sPRO",
    "image_ap": "Image AP", "pixel_ap": "Pixel AP", "image_f1_max": "Image F1-max", "pixel_f1_max": "Pixel F1-max",
    "image_f1": "Image F1 at the threshold", "pixel_f1": "Pixel F1 at the threshold",
    "image_false_alarm_rate": "False-alarm rate", "image_detection_rate": "Detection rate",
    "train_seconds": "Training time (s)", "ms_per_image": "Time per image (ms)", "model_mb": "Model (MB)",
}  # fmt: skip
_HEADLINES = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro")
_RATED = ("n", "image_auroc", "pixel_auroc", "aupro")  # metrics of a defect type or a product
_SOME_DATA = ("auspro",)  # metrics that only some data sets have
_CHOICES = ("data", "detector", "backbone", "mode", "augment", "generator")
_WHY = "Chosen on held-out OK images and copies of them with synthetic defects; no test image was used."
Table = tuple[str, list[tuple[str, str]]]


class Card(NamedTuple):
    """A headline metric; `share` in [0, 1] is the length of its bar, `reason` explains a missing value."""

    title: str
    value: str
    share: float | None
    reason: str | None = None


def title(metric: str) -> str:
    """Returns the heading of a metric or cost; for an unknown key, the key in words."""
    return _TITLES.get(metric, metric.replace("_image_auroc", ": image AUROC").replace("_", " "))


def cards(metrics: Mapping[str, Any]) -> list[Card]:
    """Returns the headline metrics."""
    keys, missing = (*_HEADLINES, *(key for key in _SOME_DATA if key in metrics)), metrics["missing"]
    values = {key: NOT_THERE if metrics[key] is None else f"{metrics[key]:.4f}" for key in keys}
    return [Card(title(key), value, metrics[key], missing.get(key)) for key, value in values.items()]


def shares(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Counts the defective images that were found and the good ones that were rejected; `good`: more is better."""
    tally = Counter(map(verdict, outcomes))
    kinds = (
        ("found", "missed", "defective images found"),
        ("false alarm", "passed", "good images rejected"),
        ("rejected", "accepted", "unlabelled images rejected"),
    )
    return [
        {"found": tally[one], "total": total, "words": words, "good": one == "found",
         "percent": percent(tally[one] / total)}
        for one, other, words in kinds if (total := tally[one] + tally[other])
    ]  # fmt: skip


def defect_rows(metrics: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """Returns (defect type, [n, image AUROC, pixel AUROC, AUPRO, _SOME_DATA, recall]), the lowest recall first."""
    return sorted(_rows(metrics, metrics["per_defect"], "recall"), key=lambda row: (row[1][-1], row[0]))


def category_rows(metrics: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """Returns (category, [n, image AUROC, pixel AUROC, AUPRO, _SOME_DATA, detection rate]), their mean last."""
    rows = {**metrics.get("categories", {}), "mean": metrics.get("mean_of_categories")}
    return _rows(metrics, {name: row for name, row in rows.items() if row}, "image_detection_rate")


def _rows(metrics: Mapping[str, Any], rows: Mapping[str, Any], rate: str) -> list[tuple[str, list[float | None]]]:
    keys = (*_RATED, *(key for key in _SOME_DATA if key in metrics), rate)
    return [(name, [row.get(key) for key in keys]) for name, row in rows.items()]


def threshold_words(threshold: "Threshold", metrics: Mapping[str, Any]) -> list[str]:
    """Returns sentences on the threshold, its guarantee, and its false-alarm rate on the test images."""
    sentences = [
        f"{name and f'{name}: '}{own.in_words()} A pixel is marked where the map exceeds {own.pixel:.4g}."
        for name, own in (threshold.categories or {"": threshold}).items()
    ]
    if (measured := metrics["image_false_alarm_rate"]) is not None:
        sentences.append(f"Of the good test images it rejected {percent(measured)}.")
    return sentences


def choice(status: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns a table of the candidates in status.json, and why one was chosen; None if nothing was chosen."""
    chosen = status.get("choice", {})
    records = chosen.get("candidates", [])
    columns = list(dict.fromkeys(key for record in records for key in record if key != "name"))
    rows = [
        {"cells": [(r["name"], None), *(_cell(key, r.get(key)) for key in columns)], "marked": r.get("taken") is True}
        for r in records
    ]
    why = chosen.get("words") or _WHY
    return {"head": ["candidate", *map(title, columns)], "rows": rows, "words": 1, "why": why} if rows else None


def evidence_words(evidence: Mapping[str, float], nok: bool) -> str:
    """Names the members of a fusion that contribute to a score, the largest share first; empty for other methods."""
    parts = sorted(((round(share, 2), name) for name, share in evidence.items()), reverse=True)
    words = ", ".join(f"{name} {percent(share)}".replace(" %", "\u00a0%") for share, name in parts if share > 0)
    return words and (f"alarm raised by {words}" if nok else f"score from {words}")


def stages(timings: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """Returns (stage, duration in words, share of the longest duration)."""
    longest = max(timings.values(), default=0.0) or 1.0
    return [(name, duration(seconds), seconds / longest) for name, seconds in timings.items()]


def subtitle(run: RunFolder) -> str:
    """Returns one line with the choices of a training, or the name of the evaluated run."""
    config, choices = run.config, run.environment.get("choices")
    if choices is None:
        return f"evaluation of {Path(config.get('run', '')).name}"
    words = [choices[group] for group in _CHOICES if choices.get(group) not in (None, "none")]
    if category := config["data"].get("category"):
        words.insert(1, plain_words(category))
    return " · ".join([*words, f"seed {config['seed']}"])


def tables(record: Mapping[str, Any], skip: Sequence[str] = ()) -> list[Table]:
    """Converts a nested record to titled lists of (name, value): plain values first, then each sub-record."""
    entries = [(key, value) for key, value in record.items() if key not in skip and value is not None]
    plain = [
        (_TITLES.get(key, key), _typed(value) if key in ("command", "overrides") else plain_words(value))
        for key, value in entries
        if not isinstance(value, Mapping)
    ]
    nested = [
        (key, [(name, plain_words(item)) for name, item in value.items()])
        for key, value in entries
        if isinstance(value, Mapping) and value
    ]
    return ([("", plain)] if plain else []) + nested


def percent(share: float) -> str:
    """Formats a share in percent; only exact values become 0 % and 100 %."""
    value = round(100.0 * share, 9)
    for decimals in (0 if value == round(value) else 1, 2, 3):
        words = f"{value:.{decimals}f}"
        if value in (0.0, 100.0) or float(words) not in (0.0, 100.0):
            break
    return f"{words} %"


def duration(seconds: float) -> str:
    """Formats a duration, e.g. 4.2 s, 3 min 20 s or 2 h 5 min."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plain_words(value: Any) -> str:
    """Formats any value of a JSON file for a reader."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        value = [f"{key} {plain_words(item)}" for key, item in value.items()]
    if isinstance(value, list | tuple):
        return ", ".join(map(plain_words, value)) or NOT_THERE
    return NOT_THERE if value in (None, "") else str(value)


def _typed(words: Sequence[str]) -> str:
    """Formats a command or overrides for a shell; the first item of a command is `anomalib-lite VERB`."""
    start = list(words[:1]) if words and "=" not in words[0] else []
    return " ".join([*start, command_line(words[len(start) :])]).strip() or NOT_THERE


def _cell(column: str, value: Any) -> tuple[str, Any]:
    """Returns a candidate's value as text, and its sort key."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return plain_words(value), ""
    if column == "seconds":
        return duration(value), value
    return f"{value:.4f}" if isinstance(value, float) else str(value), value
