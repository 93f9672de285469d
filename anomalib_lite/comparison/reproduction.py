"""A committed table beside one that was made now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


def factors_of(reference: pd.DataFrame) -> list[str]:
    """What was varied stands between the columns data and seed."""
    columns = list(reference.columns)
    return columns[columns.index("data") + 1 : columns.index("seed")]


def beyond_tolerance(
    reference: pd.DataFrame, now: pd.DataFrame, keys: Sequence[str], tolerance: Mapping[str, float]
) -> list[str]:
    """A line for each committed row that is missing now, and for each figure that lies further off than allowed."""
    own = {_key(row, keys): row for row in now.to_dict("records")}
    lines = []
    for row in reference.to_dict("records"):
        key = _key(row, keys)
        said = " ".join(f"{name}={value}" for name, value in zip(keys, key, strict=True))
        if key not in own:
            lines.append(f"missing: {said}")
            continue
        for name, width in tolerance.items():
            before, after = _number(row.get(name)), _number(own[key].get(name))
            same = math.isnan(before) and math.isnan(after)
            if not same and not abs(after - before) <= width:  # NaN on one side is a difference, too
                off = f"{after - before:+.4f}, allowed ± {width:g}"
                lines.append(f"differs: {said}: {name} {after:.4f}, committed {before:.4f} ({off})")
    return lines


def flat_table(figures: Mapping[str, Any]) -> pd.DataFrame:
    """Columns name (dotted) and value, of the numbers in nested mappings."""
    flat = pd.json_normalize(dict(figures)).iloc[0]
    numbers = {name: value for name, value in flat.items() if isinstance(value, int | float)}
    return pd.DataFrame({"name": list(numbers), "value": list(numbers.values())})


def _key(row: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in keys)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
