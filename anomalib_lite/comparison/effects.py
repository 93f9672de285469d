"""The marginal effect of each factor: what one of its levels changes, averaged over everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from anomalib_lite.comparison.design import Design, View
from anomalib_lite.comparison.factors import levels
from anomalib_lite.comparison.leaves import ABSENT
from anomalib_lite.comparison.paired import Difference, difference, holm
from anomalib_lite.comparison.strata import Strata


@dataclass(frozen=True)
class Effect:
    """A level against the `baseline` of its factor. `mean` is over what was run with all levels, NaN where nothing
    was; `found` is None for the baseline itself, and where nothing was run with both.
    """

    factor: str
    level: str
    baseline: str
    mean: float
    contexts: int
    blocks: int
    found: Difference | None
    p_holm: float = np.nan


def marginal_effects(
    design: Design,
    view: View,
    metric: str,
    baselines: Mapping[str, str],
    generator: np.random.Generator,
    confidence: float = 0.95,
) -> dict[str, list[Effect]]:
    """Factor -> its levels, the factor that moves the metric most first.

    Levels are compared where all else is equal: settings of the other factors, data and seed. The differences of one
    seed are averaged first, so that seeds stay what varies. baselines: factor -> level; by default the plain one.
    """
    found = {}
    for factor in design.factors:
        contexts = _contexts(design, view, metric, factor)
        if contexts.shape[1] > 1:
            found[factor] = _effects(factor, contexts, baselines.get(factor), generator, confidence)
    flat = [effect for effects in found.values() for effect in effects]
    rows = sum(e.found is not None for e in flat)
    corrected = holm(np.array([np.nan if e.found is None else e.found.p(rows) for e in flat]))
    by_level = {(e.factor, e.level): p for e, p in zip(flat, corrected, strict=True)}
    found = {f: [replace(e, p_holm=float(by_level[f, e.level])) for e in effects] for f, effects in found.items()}
    return dict(sorted(found.items(), key=lambda item: -_reach(item[1])))


def _contexts(design: Design, view: View, metric: str, factor: str) -> pd.DataFrame:
    """Everything else by rows (data, seed, other factors), levels by columns."""
    rows = design.part(view)
    rows = rows[rows[factor] != ABSENT].dropna(subset=[metric])
    others = ["data", "seed", *(f for f in design.factors if f != factor)]
    wide = rows.groupby([*others, factor])[metric].mean().unstack(factor)
    return wide[levels(list(wide.columns))]


def _effects(
    factor: str, contexts: pd.DataFrame, asked: str | None, generator: np.random.Generator, confidence: float
) -> list[Effect]:
    baseline = asked if asked in contexts.columns else contexts.columns[0]
    whole = contexts.dropna()
    means = whole.groupby("data").mean().mean()  # no rows: all NaN
    effects = []
    for level in contexts.columns:
        gains = (contexts[level] - contexts[baseline]).dropna()
        by_seed = _by_block(gains)
        found = difference(by_seed, generator, confidence) if level != baseline and by_seed else None
        mean = float(means.get(level, np.nan))
        effects.append(Effect(factor, level, baseline, mean, len(gains), len(by_seed), found))
    return effects


def _by_block(gains: pd.Series) -> Strata:
    """One array (seeds,) a data set: the mean over the other factors' settings."""
    seeds = gains.groupby(["data", "seed"]).mean()
    return [group.to_numpy() for _, group in seeds.groupby("data")]


def _reach(effects: list[Effect]) -> float:
    means = [0.0, *(e.found.mean for e in effects if e.found is not None)]
    return max(means) - min(means)
