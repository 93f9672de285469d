"""Nested settings and figures under one name each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(values: Mapping[str, Any], separator: str = "/", prefix: str = "") -> dict[str, Any]:
    """Name -> value, the keys on the way to it joined; a list, or a mapping that holds nothing, is one value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        inner = isinstance(value, Mapping) and value
        found |= flat(value, separator, f"{name}{separator}") if inner else {name: value}
    return found
