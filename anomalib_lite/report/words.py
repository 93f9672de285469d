"""What a page says about a run, in words and tables; the template only lays it out."""

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
    "image_auroc": "Image AUROC",
    "pixel_auroc": "Pixel AUROC",
    "aupro": "AUPRO",
    "auspro": "AU-sPRO",
    "image_ap": "Image AP",
    "pixel_ap": "Pixel AP",
    "image_f1_max": "Image F1-max",
    "pixel_f1_max": "Pixel F1-max",
    "image_f1": "Image F1 at the threshold",
    "pixel_f1": "Pixel F1 at the threshold",
    "image_false_alarm_rate": "False-alarm rate",
    "image_detection_rate": "Detection rate",
    "train_seconds": "Training time (s)",
    "ms_per_image": "Time an image (ms)",
    "model_mb": "Model (MB)",
}
_HEADLINES = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro")
_RATED = ("n", "image_auroc", "pixel_auroc", "aupro")  # of a defect type or a product
_SOME_DATA = ("auspro",)  # figures that are shown where the data set gives them
_CHOICES = ("data", "detector", "backbone", "mode", "augment", "generator")
_WHY = "On held-out OK images and copies of them with drawn defects; no test image had a say in it."
Table = tuple[str, list[tuple[str, str]]]


class Card(NamedTuple):
    """A headline metric; `share` in [0, 1] is the length of its bar, `reason` says why there is no value."""

    title: str
    value: str
    share: float | None
    reason: str | None = None


def title(metric: str) -> str:
    """A metric's or a cost's name as a heading; of an unknown one its key in words."""
    return _TITLES.get(metric, metric.replace("_image_auroc", ": image AUROC").replace("_", " "))


def cards(metrics: Mapping[str, Any]) -> list[Card]:
    """The headline metrics."""
    made = []
    for key in (*_HEADLINES, *(key for key in _SOME_DATA if key in metrics)):
        if metrics[key] is None:
            made.append(Card(title(key), NOT_THERE, None, metrics["missing"].get(key)))
        else:
            made.append(Card(title(key), f"{metrics[key]:.4f}", metrics[key]))
    return made


def notes(metrics: Mapping[str, Any]) -> list[str]:
    """Reasons in `missing` that belong to no single metric, such as images that were left out."""
    return [reason for key, reason in metrics["missing"].items() if key not in metrics]


def shares(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """How many defective images were found and how many good ones rejected; `good` where more is better."""
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
    """(defect type, [n, image AUROC, pixel AUROC, AUPRO, recall]) of each type, the lowest recall first; before the
    recall what only some data have.
    """
    return sorted(_rows(metrics, metrics["per_defect"], "recall"), key=lambda row: (row[1][-1], row[0]))


def category_rows(metrics: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """(category, [n, image AUROC, pixel AUROC, AUPRO, detection rate]) of several products, their mean last."""
    rows = {**metrics.get("categories", {}), "mean": metrics.get("mean_of_categories")}
    return _rows(metrics, {name: row for name, row in rows.items() if row}, "image_detection_rate")


def _rows(metrics: Mapping[str, Any], rows: Mapping[str, Any], rate: str) -> list[tuple[str, list[float | None]]]:
    keys = (*_RATED, *(key for key in _SOME_DATA if key in metrics), rate)
    return [(name, [row.get(key) for key in keys]) for name, row in rows.items()]


def threshold_words(threshold: "Threshold", metrics: Mapping[str, Any]) -> list[str]:
    """What the threshold is, what it promises, and how it fared on the test images; a sentence each."""
    said = [threshold.in_words(), f"A pixel is marked where the map exceeds {threshold.pixel:.4g}."]
    if (measured := metrics["image_false_alarm_rate"]) is not None:
        said.append(f"Of the good test images it rejected {percent(measured)}.")
    return said


def choice(status: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the detector was chosen, from status.json, as a table and why in words. None where nothing was chosen."""
    chosen = status.get("choice", {})
    records = chosen.get("candidates", [])
    columns = list(dict.fromkeys(key for record in records for key in record if key != "name"))
    rows = [
        {"cells": [(r["name"], None), *(_cell(key, r.get(key)) for key in columns)], "marked": r.get("taken") is True}
        for r in records
    ]
    return {
        "head": ["candidate", *map(title, columns)],
        "rows": rows,
        "words": 1,
        "why": chosen.get("words") or _WHY,
    } if rows else None  # fmt: skip


def evidence_words(evidence: Mapping[str, float], nok: bool) -> str:
    """Which members of a fusion made the score, the largest share first; empty for a single method."""
    known = sorted(((round(share, 2), name) for name, share in evidence.items()), reverse=True)
    words = ", ".join(f"{name} {percent(share)}".replace(" %", "\u00a0%") for share, name in known if share > 0)
    return words and (f"alarm raised by {words}" if nok else f"score from {words}")


def stages(timings: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """(stage, duration in words, share of the longest) in their order."""
    longest = max(timings.values(), default=0.0) or 1.0
    return [(name, duration(seconds), seconds / longest) for name, seconds in timings.items()]


def subtitle(run: RunFolder) -> str:
    """One line that names the choices of a training, or the run that was evaluated."""
    config, choices = run.config, run.environment.get("choices")
    if choices is None:
        return f"evaluation of {Path(config.get('run', '')).name}"
    words = [choices[group] for group in _CHOICES if choices.get(group) not in (None, "none")]
    if category := config["data"].get("category"):
        words.insert(1, plain_words(category))
    return " · ".join([*words, f"seed {config['seed']}"])


def tables(record: Mapping[str, Any], skip: Sequence[str] = ()) -> list[Table]:
    """A nested record as titled lists of (name, value): its plain values first, then each sub-record."""
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
    """A share in percent; 0 % and 100 % stand for none and all, never for nearly none and nearly all."""
    value = round(100.0 * share, 9)
    for decimals in (0 if value == round(value) else 1, 2, 3):
        words = f"{value:.{decimals}f}"
        if value in (0.0, 100.0) or float(words) not in (0.0, 100.0):
            break
    return f"{words} %"


def duration(seconds: float) -> str:
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plain_words(value: Any) -> str:
    """Any value of a JSON file as a person writes it."""
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
    """As one types it into a shell; the first word of a command is `anomalib-lite VERB`."""
    start = list(words[:1]) if words and "=" not in words[0] else []
    return " ".join([*start, command_line(words[len(start) :])]).strip() or NOT_THERE


def _cell(column: str, value: Any) -> tuple[str, Any]:
    """A measure of a candidate in words, and by what it is sorted."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return plain_words(value), ""
    if column == "seconds":
        return duration(value), value
    return f"{value:.4f}" if isinstance(value, float) else str(value), value
