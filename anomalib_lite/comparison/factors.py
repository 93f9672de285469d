"""What was varied: found from the runs' configurations, without being told."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from anomalib_lite.comparison.choices import NO_FACTORS
from anomalib_lite.comparison.leaves import ABSENT, differing, label, leaves
from anomalib_lite.comparison.record import Run
from anomalib_lite.errors import UserError

Column = list[str]  # a label for each run

# The plain option of a group comes first among its levels: others are read against it.
PLAIN = ("none", "no_template", "frozen", "fast", "null", "false")


@dataclass(frozen=True)
class Factors:
    """Name -> label in each run. `notes` tell what else differs and why it is no factor of its own."""

    columns: dict[str, Column]
    notes: list[str]


def find_factors(runs: Sequence[Run], blocks: Sequence[str]) -> Factors:
    """Groups of which the runs chose different options, and single settings that differ beyond that.

    blocks: the data of each run. A setting that one group's option (with the preset and the data) decides is part of
    that option. A setting elsewhere that goes along with one factor or with the data cannot be told from it: a note
    says so.
    """
    columns = _choices(runs)
    notes: list[str] = []
    every, deciders = _all_choices(runs), ("preset", "data")
    for name, column in sorted(differing(runs).items(), key=lambda item: (item[0].count("."), item[0])):
        group = name.partition(".")[0]
        own = [every[g] for g in (group, *deciders) if g in every]
        if group in every and decides([*own, list(blocks)], column):
            continue
        if group not in every and name.endswith("._target_"):  # no record of the choices: name the class instead
            columns[group] = [value.rpartition(".")[2] for value in column]
            every[group] = columns[group]
            continue
        partner = next((other for other, values in columns.items() if decides([values], column)), None)
        if decides([list(blocks)], column):
            notes.append(f"{name} differs between data sets only ({_pairs(blocks, column)}): it is part of the data.")
        elif partner:
            notes.append(f"{name} changes together with {partner}: their effects cannot be told apart.")
        else:
            columns[name] = column
    return Factors(columns, notes)


def asked_factors(runs: Sequence[Run], found: Factors, asked: Sequence[str]) -> dict[str, Column]:
    """The columns of the factors that the user names: groups, or settings with their dots.

    Errors: UserError for a name that no run knows.
    """
    every = {g: [r.choices.get(g, ABSENT) for r in runs] for g in sorted({g for r in runs for g in r.choices})}
    flat = [leaves(run.config) for run in runs]
    columns = {}
    for name in asked:
        if name in found.columns or name in every:
            columns[name] = found.columns.get(name) or every[name]
        elif any(name in one for one in flat):
            columns[name] = [label(one[name]) if name in one else ABSENT for one in flat]
        else:
            known = sorted({*every, *(key for one in flat for key in one)})
            near = difflib.get_close_matches(name, known, 3, 0.5) or list(found.columns)
            raise UserError(f"factors: no run has a group or setting '{name}'. Near it: {', '.join(near)}.")
    return columns


def decides(deciders: Sequence[Sequence[str]], column: Sequence[str]) -> bool:
    """Whether runs that agree in all deciders agree in the column."""
    seen: dict[tuple[str, ...], str] = {}
    keys = zip(*deciders, strict=True)
    return all(seen.setdefault(key, value) == value for key, value in zip(keys, column, strict=True))


def levels(column: Sequence[str]) -> list[str]:
    """Each label once: numbers by size, else the plain option first and the others by name."""

    def rank(value: str) -> tuple[int, float, str]:
        if value == ABSENT:
            return (3, 0.0, "")
        try:
            return (1, float(value), "")
        except ValueError:
            return (0 if value in PLAIN else 2, 0.0, value)

    return sorted(set(column), key=rank)


def _choices(runs: Sequence[Run]) -> dict[str, Column]:
    return {
        group: column
        for group, column in _all_choices(runs).items()
        if group not in NO_FACTORS and len(set(column)) > 1
    }


def _all_choices(runs: Sequence[Run]) -> dict[str, Column]:
    """Of the groups whose option every run knows."""
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    return {g: [run.choices[g] for run in runs] for g in groups if all(g in run.choices for run in runs)}


def _pairs(blocks: Sequence[str], column: Sequence[str]) -> str:
    return ", ".join(f"{block} {value}" for block, value in sorted(set(zip(blocks, column, strict=True))))
