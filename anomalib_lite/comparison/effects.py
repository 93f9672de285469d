"""What one factor changes, averaged over everything else, and whether another factor changes that."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from anomalib_lite.comparison.design import Design, View
from anomalib_lite.comparison.factors import ABSENT, levels
from anomalib_lite.comparison.statistics import Strata, difference, holm, mean, student

DATA = "data"
EFFECTS = ("factor", "level", "baseline", "mean", "difference", "low", "high", "contexts", "p_student", "p_holm")


def marginal_effects(
    design: Design,
    view: View,
    metric: str,
    baselines: Mapping[str, str],
    generator: np.random.Generator,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """A row for each level of each factor, the factor that moves the metric most first. `mean` is over what was run
    with all levels, NaN where nothing was; `difference` is to the `baseline`, NaN for it itself and where nothing was
    run with both; `contexts` counts the comparisons.

    Levels are compared where all else is equal: settings of the other factors, data and seed. The differences of one
    seed are averaged first, so that seeds stay what varies. baselines: factor -> level; by default the plain one.
    """
    rows, found = [], []
    for factor in design.factors:
        contexts = _contexts(design, view, metric, factor)
        if contexts.shape[1] < 2:
            continue
        asked = baselines.get(factor)
        baseline = asked if asked in contexts.columns else contexts.columns[0]
        means = contexts.dropna().groupby(DATA).mean().mean()  # no rows: all NaN
        for level in contexts.columns:
            gains = (contexts[level] - contexts[baseline]).dropna()
            by_seed = _by_block(gains)
            d = difference(by_seed, generator, confidence) if level != baseline and by_seed else None
            row = {"factor": factor, "level": level, "baseline": baseline, "mean": float(means.get(level, np.nan))}
            if d is not None:
                row |= {"difference": d.mean, "low": d.interval.low, "high": d.interval.high, "p_student": d.p_student}
            rows.append(row | {"contexts": len(gains)})
            found.append(d)
    count = sum(d is not None for d in found)
    table = pd.DataFrame(rows, columns=list(EFFECTS)).astype(dict.fromkeys(("difference", "low", "high"), float))
    table["p_holm"] = holm([np.nan if d is None else d.p(count) for d in found])
    reach = table.groupby("factor")["difference"].agg(lambda d: max(0.0, d.max()) - min(0.0, d.min()))
    return table.sort_values("factor", key=lambda f: -f.map(reach).fillna(0.0), kind="stable", ignore_index=True)


def _contexts(design: Design, view: View, metric: str, factor: str) -> pd.DataFrame:
    """Everything else by rows (data, seed, other factors), levels by columns."""
    rows = design.part(view)
    rows = rows[rows[factor] != ABSENT].dropna(subset=[metric])
    others = [DATA, "seed", *(f for f in design.factors if f != factor)]
    wide = rows.groupby([*others, factor])[metric].mean().unstack(factor)
    return wide[levels(list(wide.columns))]


def _by_block(values: pd.Series) -> Strata:
    """One array (seeds,) a data set: the mean over everything else."""
    seeds = values.groupby([DATA, "seed"]).mean()
    return [group.to_numpy() for _, group in seeds.groupby(DATA)]


def interactions(design: Design, view: View, metric: str, confidence: float = 0.95) -> list[pd.DataFrame]:
    """The means of the combinations of two factors' levels; parallel lines say that one does not change what the other
    does. One table for each two factors, the data among them where the view has several: their names are its first
    two columns, then mean, low and high (Student's interval over seeds) and runs.

    `attrs["whole"]`: all else was run with each combination; if not, means are of what there is.
    """
    names = [*design.factors, *([DATA] if len(view.blocks) > 1 else [])]
    rows = design.part(view).dropna(subset=[metric])
    found = []
    for first, second in itertools.combinations(names, 2):
        known = rows[(rows[first] != ABSENT) & (rows[second] != ABSENT)]
        if known[first].nunique() > 1 and known[second].nunique() > 1:
            others = [f for f in [*design.factors, DATA] if f not in (first, second)]
            found.append(_interaction(known, others, first, second, metric, confidence))
    return found


def _interaction(
    rows: pd.DataFrame, others: list[str], first: str, second: str, metric: str, confidence: float
) -> pd.DataFrame:
    there = pd.Series(True, index=rows.index)
    if others:
        both = rows.assign(both=rows[first] + "\0" + rows[second])
        there = both.groupby(others)["both"].transform("nunique") == both["both"].nunique()
    used = rows[there] if there.any() else rows
    cells = []
    for (one, other), group in used.groupby([first, second]):
        strata = _by_block(group.set_index([DATA, "seed"])[metric])
        low, high = student(strata, confidence)
        cells.append({first: one, second: other, "mean": mean(strata), "low": low, "high": high, "runs": len(group)})
    table = pd.DataFrame(cells)
    for name in (first, second):
        table[name] = pd.Categorical(table[name], levels(list(table[name])))
    table = table.sort_values([first, second], ignore_index=True)
    table.attrs["whole"] = bool(there.all())
    return table
