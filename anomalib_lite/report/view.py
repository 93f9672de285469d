"""What a page says about a run, in words and tables; the template only lays it out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from anomalib_lite.report.cases import Judged, outcome
from anomalib_lite.report.run_files import RunFiles
from anomalib_lite.report.words import NOT_THERE, duration, number, percent, plain_words

_HEADLINES = {
    "image_auroc": "Image AUROC",
    "image_ap": "Image AP",
    "image_f1_max": "Image F1-max",
    "pixel_auroc": "Pixel AUROC",
    "pixel_ap": "Pixel AP",
    "aupro": "AUPRO",
}
_CHOICES = ("data", "detector", "backbone", "mode", "augment", "generator")
Table = tuple[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Card:
    """A headline metric; `share` in [0, 1] is the length of its bar, `reason` says why there is no value."""

    title: str
    value: str
    share: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Share:
    """So many of so many images; `good` where more is better."""

    count: int
    total: int
    words: str
    good: bool

    @property
    def percent(self) -> str:
        return percent(self.count / self.total)


def cards(metrics: Mapping[str, Any]) -> list[Card]:
    """The headline metrics; none at all of a run that ended before it was evaluated."""
    if not metrics:
        return []
    reasons = _mapping(metrics.get("missing"))
    return [_card(title, metrics.get(key), reasons.get(key)) for key, title in _HEADLINES.items()]


def notes(metrics: Mapping[str, Any]) -> list[str]:
    """Reasons in `missing` that belong to no single metric, such as images that were left out."""
    missing = _mapping(metrics.get("missing"))
    return [str(reason) for key, reason in missing.items() if key not in metrics and key not in _HEADLINES]


def shares(predictions: Sequence[Judged], threshold: float) -> list[Share]:
    """How many defective images were found and how many good ones rejected, by the run's own decisions."""
    tally = Counter(outcome(item, threshold) for item in predictions)
    found = Share(tally["found"], tally["found"] + tally["missed"], "defective images found", True)
    alarms = Share(tally["false alarm"], tally["false alarm"] + tally["passed"], "good images rejected", False)
    unknown = tally["rejected"] + tally["accepted"]
    rejected = Share(tally["rejected"], unknown, "unlabelled images rejected", False)
    return [share for share in (found, alarms, rejected) if share.total]


def defect_rows(metrics: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """(defect type, [n, image AUROC, pixel AUROC, AUPRO, recall]) of each type, the lowest recall first."""
    keys = ("n", "image_auroc", "pixel_auroc", "aupro", "recall")
    rows = [
        (str(name), [number(_mapping(values).get(key)) for key in keys])
        for name, values in _mapping(metrics.get("per_defect")).items()
    ]
    return sorted(rows, key=lambda row: (row[1][4] is None, row[1][4], row[0]))


def threshold_words(metrics: Mapping[str, Any]) -> list[str]:
    """What the threshold is, what it promises, and how it fared on the test images; a sentence each."""
    threshold = _mapping(metrics.get("threshold"))
    image, pixel = number(threshold.get("image")), number(threshold.get("pixel"))
    sentences = []
    if image is not None:
        sentences.append(f"An image is rejected where its score exceeds {image:.4g}.")
    if pixel is not None:
        sentences.append(f"A pixel is marked where the map exceeds {pixel:.4g}.")
    sentences += _promise(threshold)
    if threshold.get("note"):
        sentences.append(_sentence(str(threshold["note"])))
    measured = number(metrics.get("image_false_alarm_rate"))
    if measured is not None:
        sentences.append(f"Of the good test images it rejected {percent(measured)}.")
    return sentences


def tables(record: Mapping[str, Any], skip: Sequence[str] = ()) -> list[Table]:
    """A nested record as titled lists of (name, value): its plain values first, then each sub-record."""
    entries = [(str(key), value) for key, value in record.items() if key not in skip and value is not None]
    plain = [(key, plain_words(value)) for key, value in entries if not isinstance(value, Mapping)]
    nested = [
        (key, [(str(name), plain_words(item)) for name, item in value.items()])
        for key, value in entries
        if isinstance(value, Mapping) and value
    ]
    return ([("", plain)] if plain else []) + nested


def timings(status: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """(phase, duration in words, share of the longest) from status.json's `timings`, in their order."""
    phases = {str(name): number(value) for name, value in _mapping(status.get("timings")).items()}
    known = {name: seconds for name, seconds in phases.items() if seconds is not None and seconds >= 0}
    longest = max(known.values(), default=0.0) or 1.0
    return [(name, duration(seconds), seconds / longest) for name, seconds in known.items()]


def subtitle(run: RunFiles) -> str:
    """One line that names the run's choices, from whatever the resolved configuration offers."""
    try:
        config = _mapping(yaml.safe_load(run.config))
    except yaml.YAMLError:
        return ""
    words = [_choice(config.get(key)) for key in ("data", "detector", "backbone", "mode", "augment", "generator")]
    words += [f"seed {config['seed']}"] if config.get("seed") is not None else []
    return " · ".join(word for word in words if word and word != "none")


def counts(names: Sequence[str]) -> dict[str, int]:
    """How often each name occurs, OK first, then in alphabetical order."""
    tally = Counter(names)
    return {name: tally[name] for name in sorted(tally, key=lambda name: (name != "OK", name))}


def _promise(threshold: Mapping[str, Any]) -> list[str]:
    asked, held_out = number(threshold.get("false_alarm_rate")), number(threshold.get("n"))
    if asked is None or held_out is None:
        return []
    # Without the promise in the file: what a conformal quantile of so many images can promise at the best.
    promised = number(threshold.get("promised_rate"))
    promised = max(asked, 1.0 / (held_out + 1.0)) if promised is None else promised
    asked_for = "" if math.isclose(promised, asked) else f", where {percent(asked)} were asked for"
    sentences = [
        f"A new good image from the same production is rejected with a probability of at most "
        f"{percent(promised)}{asked_for}.",
        f"This follows from {held_out:.0f} held-out good images alone; no test image had a say in it.",
    ]
    interval = threshold.get("interval")
    if isinstance(interval, list) and len(interval) == 2 and None not in map(number, interval):
        low, high = (percent(end) for end in interval)
        words = f"For this very threshold the rate lies, nine times in ten, between {low} and {high}."
        sentences.insert(1, words)
    return sentences


def _card(title: str, value: Any, reason: Any) -> Card:
    known = number(value)
    if known is None:
        return Card(title, NOT_THERE, None, str(reason) if reason else "not measured in this run")
    return Card(title, f"{known:.4f}", min(max(known, 0.0), 1.0))


def _choice(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "" if value is None else str(value).replace("_", " ")
    *_, module, thing = ["", *str(value.get("_target_", "")).split(".")]
    made = thing if thing[:1].isupper() else module  # a reader of data is a function, known by its file's name
    return " ".join(str(word) for word in (value.get("name") or made, value.get("category")) if word)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
