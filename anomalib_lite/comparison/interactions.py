"""Means of the combinations of two factors' levels: parallel lines say that one does not change what the other does."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pandas as pd

from anomalib_lite.comparison.design import Design, View
from anomalib_lite.comparison.factors import levels
from anomalib_lite.comparison.leaves import ABSENT
from anomalib_lite.comparison.strata import Interval, mean, student

DATA = "data"


@dataclass(frozen=True)
class Cell:
    first: str
    second: str
    mean: float
    interval: Interval  # Student's, over seeds
    runs: int


@dataclass(frozen=True)
class Interaction:
    """Cells of two factors. `whole`: all else was run with each combination; if not, means are of what there is."""

    factors: tuple[str, str]
    levels: tuple[list[str], list[str]]
    cells: list[Cell]
    whole: bool


def interactions(design: Design, view: View, metric: str, confidence: float = 0.95) -> list[Interaction]:
    """Of all pairs of factors, the data among them where the view has several."""
    names = [*design.factors, *([DATA] if len(view.blocks) > 1 else [])]
    rows = design.part(view).dropna(subset=[metric])
    found = []
    for first, second in itertools.combinations(names, 2):
        known = rows[(rows[first] != ABSENT) & (rows[second] != ABSENT)]
        if known[first].nunique() > 1 and known[second].nunique() > 1:
            found.append(_interaction(known, design.factors, first, second, metric, confidence))
    return found


def _interaction(
    rows: pd.DataFrame, factors: list[str], first: str, second: str, metric: str, confidence: float
) -> Interaction:
    others = [f for f in [*factors, DATA] if f not in (first, second)]
    combinations = rows.groupby([first, second]).ngroups
    there = pd.Series(1, index=rows.index)
    if others:
        there = rows.assign(both=rows[first] + "\0" + rows[second]).groupby(others)["both"].transform("nunique")
        there = there == combinations
    whole = bool(there.astype(bool).all())
    used = rows[there.astype(bool)] if there.any() else rows
    cells = []
    for (one, other), group in used.groupby([first, second]):
        seeds = group.groupby([DATA, "seed"])[metric].mean()
        strata = [values.to_numpy() for _, values in seeds.groupby(DATA)]
        cells.append(Cell(str(one), str(other), mean(strata), student(strata, confidence), len(group)))
    by_size = levels(list(used[first])), levels(list(used[second]))
    return Interaction((first, second), by_size, cells, whole)
