"""The data of a run, as a block: results of different data are never averaged as if they were the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anomalib_lite.comparison.leaves import ABSENT, label, leaves
from anomalib_lite.comparison.record import Run

FINGERPRINT = 6  # hex digits shown


def name_blocks(runs: Sequence[Run], told_apart: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The data of each run by name, and notes.

    Data of one name with different contents (fingerprints) get different names, by the settings in which they differ.
    told_apart: settings of the data that are factors; data that differ in them share one name.
    """
    plain = [_name(run) for run in runs]
    if any(name.startswith("data.") for name in told_apart):
        return plain, []
    names, notes = list(plain), []
    for name in dict.fromkeys(plain):
        own = [i for i, other in enumerate(plain) if other == name]
        prints = dict.fromkeys(runs[i].fingerprint for i in own)
        if len(prints) < 2:
            continue
        flat = [_settings(runs[i]) for i in own]
        keys = [k for k in dict.fromkeys(k for one in flat for k in one) if len({one.get(k) for one in flat}) > 1]
        for i, one in zip(own, flat, strict=True):
            said = " ".join(f"{key}={one.get(key, ABSENT)}" for key in keys)
            names[i] = f"{name} ({said})" if said else name
        same_words = len({names[i] for i in own}) < len(prints)
        if same_words:
            for i in own:
                names[i] += f" [{str(runs[i].fingerprint)[:FINGERPRINT]}]"
        where = f"{', '.join(f'data.{key}' for key in keys)} differ" if keys else "their images or labels differ"
        hint = f" factors='[data.{keys[0]}]' compares them." if keys and not same_words else ""
        notes.append(f"{name} comes in {len(prints)} versions: {where}. They are kept apart.{hint}")
    return names, notes


def _name(run: Run) -> str:
    data: dict[str, Any] = run.config.get("data") or {}
    category = data.get("category")
    parts = category if isinstance(category, list) else [category]
    reader = str(data.get("_target_", "data")).split(".")
    made = run.choices.get("data") or (reader[-2] if len(reader) > 1 else reader[-1])
    if run.config.get("run") and len(reader) > 1:  # an evaluation: the choices are its training's, the data may not be
        made = reader[-2]
    return "-".join(str(part) for part in [made, *parts] if part)


def _settings(run: Run) -> dict[str, str]:
    """Of the data; of a path its last part, since a data set that moves as a whole stays the same."""
    flat = {key: label(value) for key, value in leaves(run.config.get("data") or {}).items()}
    return {key: value.rstrip("/").rpartition("/")[2] for key, value in flat.items() if key != "_target_"}
