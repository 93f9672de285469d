"""What was varied: found from the runs' configurations, without being told."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from anomalib_lite.comparison.runs import Run
from anomalib_lite.errors import UserError
from anomalib_lite.runs.flat import flat
from anomalib_lite.runs.folder import UNDEFINING

Column = list[str]  # a label for each run

ABSENT = "–"  # a setting that this run does not have
# The plain option of a group comes first among its levels: others are read against it.
PLAIN = ("none", "no_template", "frozen", "fast", "null", "false")
# Not what a result is explained by: data are a block of their own, and an experiment is a set of other choices.
NO_FACTORS = ("data", "experiment", "tracking")
NO_CAUSES = (*UNDEFINING, "seed", "data", "run", "preset", "output")


def find_factors(runs: Sequence[Run], blocks: Sequence[str]) -> tuple[dict[str, Column], list[str]]:
    """Groups of which the runs chose different options, and single settings that differ beyond that; and notes on what
    else differs and why it is no factor of its own.

    blocks: the data of each run. A setting that one group's option (with the preset and the data) decides is part of
    that option. A setting elsewhere that goes along with one factor or with the data cannot be told from it: a note
    says so.
    """
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    every = {g: [run.choices[g] for run in runs] for g in groups if all(g in run.choices for run in runs)}
    columns = {g: column for g, column in every.items() if g not in NO_FACTORS and len(set(column)) > 1}
    notes: list[str] = []
    for name, column in sorted(_differing(runs).items(), key=lambda item: (item[0].count("."), item[0])):
        group = name.partition(".")[0]
        own = [every[g] for g in (group, "preset", "data") if g in every]
        if group in every and decides([*own, blocks], column):
            continue
        if group not in every and name.endswith("._target_"):  # not run by the command line: name the class instead
            columns[group] = every[group] = [value.rpartition(".")[2] for value in column]
            continue
        partner = next((other for other, values in columns.items() if decides([values], column)), None)
        if decides([blocks], column):
            pairs = ", ".join(f"{block} {value}" for block, value in sorted(set(zip(blocks, column, strict=True))))
            notes.append(f"{name} differs between data sets only ({pairs}): it is part of the data.")
        elif partner:
            notes.append(f"{name} changes together with {partner}: their effects cannot be told apart.")
        else:
            columns[name] = column
    return columns, notes


def asked_factors(runs: Sequence[Run], found: Mapping[str, Column], asked: Sequence[str]) -> dict[str, Column]:
    """The columns of the factors that the user names: groups, or settings with their dots.

    Errors: UserError for a name that no run knows.
    """
    settings = [flat(run.config, ".") | run.choices for run in runs]
    columns = {}
    for name in asked:
        if name in found:
            columns[name] = found[name]
        elif any(name in one for one in settings):
            columns[name] = [label(one[name]) if name in one else ABSENT for one in settings]
        else:
            known = sorted({key for one in settings for key in one})
            near = difflib.get_close_matches(name, known, 3, 0.5) or list(found)
            raise UserError(f"factors: no run has a group or setting '{name}'. Near it: {', '.join(near)}.")
    return columns


def decides(deciders: Sequence[Sequence[str]], column: Sequence[str]) -> bool:
    """Whether runs that agree in all deciders agree in the column."""
    keys = list(zip(*deciders, strict=True))
    return len(set(keys)) == len(set(zip(keys, column, strict=True)))


def levels(column: Sequence[str]) -> list[str]:
    """Each label once: the plain option first, numbers by size, others by name."""

    def rank(value: str) -> tuple[int, float, str]:
        if value == ABSENT:
            return (3, 0.0, "")
        try:
            return (1, float(value), "")
        except ValueError:
            return (0 if value in PLAIN else 2, 0.0, value)

    return sorted(set(column), key=rank)


def label(value: Any) -> str:
    """As one writes it behind `key=`, as far as one can read it."""
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        value = int(value)  # 1 and 1.0 are one setting
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _differing(runs: Sequence[Run]) -> dict[str, Column]:
    """Settings that differ and that are no seed and no path."""
    settings = [flat({k: v for k, v in run.config.items() if k not in NO_CAUSES}, ".") for run in runs]
    roots = tuple(str(root) for run in runs for root in (run.config.get("paths") or {}).values() if root)
    kept = {}
    for name in dict.fromkeys(name for one in settings for name in one):
        column = [label(one[name]) if name in one else ABSENT for one in settings]
        present = [(value, str(run.seed)) for value, run in zip(column, runs, strict=True) if value != ABSENT]
        handed_on = all(value == seed for value, seed in present) or any(value.startswith(roots) for value in column)
        # a setting that some runs lack and the others have alike came with a later version of the program
        if len({value for value, _ in present}) > 1 and not handed_on:
            kept[name] = column
    return kept
