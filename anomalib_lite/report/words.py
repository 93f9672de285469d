"""What a page says about a run, in words and tables; the template only lays it out."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from anomalib_lite.data.sample import Outcome
from anomalib_lite.report.cases import verdict

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
_SOME_DATA = ("auspro",)  # figures that are shown where the data set gives them
_CHOICES = ("data", "detector", "backbone", "mode", "augment", "generator")
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
    """The headline metrics; none at all of a run that ended before it was evaluated."""
    if not metrics:
        return []
    reasons = _mapping(metrics.get("missing"))
    made = []
    for key in (*_HEADLINES, *(key for key in _SOME_DATA if key in metrics)):
        known = number(metrics.get(key))
        if known is None:
            made.append(Card(title(key), NOT_THERE, None, str(reasons.get(key) or "not measured in this run")))
        else:
            made.append(Card(title(key), f"{known:.4f}", min(max(known, 0.0), 1.0)))
    return made


def notes(metrics: Mapping[str, Any]) -> list[str]:
    """Reasons in `missing` that belong to no single metric, such as images that were left out."""
    missing = _mapping(metrics.get("missing"))
    return [str(reason) for key, reason in missing.items() if key not in metrics and key not in _HEADLINES]


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
    keys = ("n", "image_auroc", "pixel_auroc", "aupro", *(key for key in _SOME_DATA if key in metrics), "recall")
    rows = [
        (str(name), [number(_mapping(values).get(key)) for key in keys])
        for name, values in _mapping(metrics.get("per_defect")).items()
    ]
    return sorted(rows, key=lambda row: (row[1][-1] is None, row[1][-1], row[0]))


def category_rows(metrics: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """(category, [n, image AUROC, pixel AUROC, AUPRO, detection rate]) of several products, their mean last."""
    extra = (key for key in _SOME_DATA if key in metrics)
    keys = ("n", "image_auroc", "pixel_auroc", "aupro", *extra, "image_detection_rate")
    rows = [*_mapping(metrics.get("categories")).items(), ("mean", metrics.get("mean_of_categories"))]
    return [(str(name), [number(_mapping(row).get(key)) for key in keys]) for name, row in rows if row]


def threshold_words(metrics: Mapping[str, Any]) -> list[str]:
    """What the threshold is, what it promises, and how it fared on the test images; a sentence each."""
    threshold, sentences = _mapping(metrics.get("threshold")), []
    if (image := number(threshold.get("image"))) is not None:
        sentences.append(f"An image is rejected where its score exceeds {image:.4g}.")
    if (pixel := number(threshold.get("pixel"))) is not None:
        sentences.append(f"A pixel is marked where the map exceeds {pixel:.4g}.")
    sentences += _promise(threshold)
    if (measured := number(metrics.get("image_false_alarm_rate"))) is not None:
        sentences.append(f"Of the good test images it rejected {percent(measured)}.")
    return sentences


def caution(metrics: Mapping[str, Any]) -> str:
    """What the threshold could not promise, such as a rate that needs more held-out images; else empty."""
    note = str(_mapping(metrics.get("threshold")).get("note") or "")
    note = note[:1].upper() + note[1:]
    return note if not note or note.endswith((".", "!", "?")) else note + "."


def choice(status: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the detector was chosen, from status.json: columns, rows of (candidate's name, [(text, number or None)]), and
    why in words. None where nothing was chosen.
    """
    chosen = _mapping(status.get("choice"))
    listed = chosen.get("candidates")
    records = [_mapping(record) for record in listed] if isinstance(listed, list) else []
    columns = list(dict.fromkeys(str(key) for record in records for key in record if key != "name"))
    rows = [
        (str(record.get("name", NOT_THERE)), [(_cell(k, record.get(k)), number(record.get(k))) for k in columns])
        for record in records
    ]
    said = {"columns": [title(column) for column in columns], "rows": rows, "words": str(chosen.get("words", ""))}
    return said if rows else None


def evidence_words(evidence: Mapping[str, float], nok: bool) -> str:
    """Which members of a fusion made the score, the largest share first; empty for a single method."""
    known = sorted(((share, name) for name, share in evidence.items() if share > 0), reverse=True)
    words = ", ".join(f"{name} {percent(round(share, 2))}" for share, name in known)
    return words and (f"alarm raised by {words}" if nok else f"score from {words}")


def stages(status: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """(stage, duration in words, share of the longest) from status.json's `timings`, in their order."""
    given = {str(name): number(value) for name, value in _mapping(status.get("timings")).items()}
    known = {name: seconds for name, seconds in given.items() if seconds is not None and seconds >= 0}
    longest = max(known.values(), default=0.0) or 1.0
    return [(name, duration(seconds), seconds / longest) for name, seconds in known.items()]


def subtitle(config: str) -> str:
    """One line that names the run's choices, from whatever the resolved configuration offers."""
    try:
        values = _mapping(yaml.safe_load(config))
    except yaml.YAMLError:
        return ""
    words = [_choice(values.get(key)) for key in _CHOICES]
    words += [f"seed {values['seed']}"] if values.get("seed") is not None else []
    return " · ".join(word for word in words if word and word != "none")


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


def number(value: Any) -> float | None:
    """The value as a float; None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


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
    if value is None or value == "":
        return NOT_THERE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain_words, value)) or NOT_THERE
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain_words(item)}" for key, item in value.items()) or NOT_THERE
    text = str(value)
    moment = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)?", text)
    if not moment:
        return text
    zone = {"Z": " UTC", "+00:00": " UTC", None: ""}.get(moment[3], f" {moment[3]}")
    return f"{moment[1]} {moment[2]}{zone}"


def yaml_lines(text: str) -> list[tuple[str, str, str]]:
    """Each line of a YAML text as (key with its colon, value, comment), so that a page can set them apart."""
    lines = []
    for line in text.splitlines():
        comment = re.search(r"(^|\s)#[^'\"]*$", line)
        body = line[: comment.start()] if comment else line
        key = re.match(r"\s*(?:- )*[\w.@/-]+:(?=\s|$)", body)
        head = key.group() if key else ""
        lines.append((head, body[len(head) :], comment.group() if comment else ""))
    return lines


def _promise(threshold: Mapping[str, Any]) -> list[str]:
    asked, held_out = number(threshold.get("false_alarm_rate")), number(threshold.get("n"))
    if asked is None or held_out is None:
        return []
    # Without the promise in the file: what a conformal quantile of so many images can promise at the best.
    promised = number(threshold.get("promised_rate"))
    promised = max(asked, 1.0 / (held_out + 1.0)) if promised is None else promised
    if threshold.get("given"):
        said = f"The threshold was given by a person. By {held_out:.0f} held-out good images"
        return [f"{said}, about {percent(promised)} of good ones are rejected; nothing is guaranteed."]
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


def _cell(column: str, value: Any) -> str:
    known = number(value)
    if column == "seconds" and known is not None:
        return duration(known)
    return f"{known:.4f}" if known is not None and isinstance(value, float) else plain_words(value)


def _choice(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "" if value is None else str(value).replace("_", " ")
    *_, module, thing = ["", *str(value.get("_target_", "")).split(".")]
    if thing == "nothing" or ("transforms" in value and not (value["transforms"] or value.get("restyle"))):
        return ""  # the choice none
    made = module if thing == "read" else thing  # a reader of this name is known by its file's
    return " ".join(str(word) for word in (value.get("name") or made, value.get("category")) if word)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def counts(names: Sequence[str]) -> dict[str, int]:
    """How often each name occurs, OK first, then in alphabetical order."""
    tally = Counter(names)
    return {name: tally[name] for name in sorted(tally, key=lambda name: (name != "OK", name))}
