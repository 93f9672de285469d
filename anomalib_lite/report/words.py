"""Numbers, times and YAML as a person reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

NOT_THERE = "–"


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
