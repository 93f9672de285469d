"""A run's configuration as flat names and values, less what says nothing about its result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from anomalib_lite.comparison.record import Run
from anomalib_lite.runs.flat import flat
from anomalib_lite.runs.folder import UNDEFINING

ABSENT = "–"  # a setting that this run does not have
NO_CAUSES = (*UNDEFINING, "seed", "data", "run", "preset", "output")


def leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name -> value; a list is one value."""
    return flat(config, ".")


def label(value: Any) -> str:
    """As one writes it behind `key=`, as far as one can read it."""
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        value = int(value)  # 1 and 1.0 are one setting
    return value if isinstance(value, str) else json.dumps(value, default=str)


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Name -> label in each run, of the settings that differ and that are no seed and no path."""
    settings = [leaves({key: v for key, v in run.config.items() if key not in NO_CAUSES}) for run in runs]
    names = dict.fromkeys(name for one in settings for name in one)
    columns = {name: [label(one[name]) if name in one else ABSENT for one in settings] for name in names}
    seeds = [str(run.seed) for run in runs]
    kept = {}
    for name, column in columns.items():
        present = [(value, seed) for value, seed in zip(column, seeds, strict=True) if value != ABSENT]
        follows_seed = all(value == seed for value, seed in present)
        # a setting that some runs lack and the others have alike came with a later version of the program
        if len({value for value, _ in present}) > 1 and not follows_seed and not _is_place(name, column, runs):
            kept[name] = column
    return kept


def _is_place(name: str, column: Sequence[str], runs: Sequence[Run]) -> bool:
    roots = [str(root) for run in runs for root in (run.config.get("paths") or {}).values()]
    return any(value.startswith(root) for value in column for root in roots if root)
