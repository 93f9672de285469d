"""Treats runs as a designed experiment: settings, data sets and seeds; marginal effects of factors and interactions."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from anomalib_lite.comparison.runs import COSTS
from anomalib_lite.comparison.statistics import Strata, difference, holm, mean, student
from anomalib_lite.comparison.table import ABSENT, RunTable, levels
from anomalib_lite.errors import UserError

DATA = "data"
EFFECTS = ("factor", "level", "baseline", "mean", "difference", "low", "high", "contexts", "p_student")
LOWER_IS_BETTER = ("image_false_alarm_rate", *COSTS)


@dataclass(frozen=True)
class View:
    """A metric on one or several data sets, and the settings that were run on all of these."""

    title: str
    metric: str
    blocks: tuple[str, ...]
    variants: tuple[str, ...]
    factors: tuple[str, ...]
    rows: pd.DataFrame  # rows of `RunTable.labelled` for these data sets and settings

    @property
    def sign(self) -> int:
        """1 if a larger value is better, else -1."""
        return -1 if self.metric in LOWER_IS_BETTER else 1

    @cached_property
    def series(self) -> dict[tuple[str, str], dict[int, float]]:
        """(setting, data set) -> seed -> value, averaged over runs that differ only in factors outside the view."""
        measured = self.rows[["variant", DATA, "seed", self.metric]].dropna()
        series: dict[tuple[str, str], dict[int, float]] = {}
        for (variant, block, seed), value in measured.groupby(["variant", DATA, "seed"])[self.metric].mean().items():
            series.setdefault((variant, block), {})[int(seed)] = float(value)
        return series

    def strata(self, variant: str) -> Strata:
        """Returns the values of a setting, one array (seeds,) per data set."""
        return [np.array([v for _, v in sorted(self.series[variant, block].items())]) for block in self.blocks]

    def paired(self, a: str, b: str) -> Strata:
        """Returns the differences a - b of the shared seeds, one array per data set that has any."""
        differences = []
        for block in self.blocks:
            x, y = self.series[a, block], self.series[b, block]
            if shared := sorted(x.keys() & y.keys()):
                differences.append(np.array([x[seed] - y[seed] for seed in shared]))
        return differences


def views(table: RunTable, metric: str) -> list[View]:
    """Returns a view of all data sets together, if some setting was run on all of them, and one of each data set."""
    rows, factors = table.labelled, tuple(table.factors)
    run_on = rows.dropna(subset=[metric]).groupby("variant")[DATA].agg(set).to_dict()
    blocks = [b for b in table.blocks if any(b in data for data in run_on.values())]
    selections = {b: [b] for b in blocks}
    if len(blocks) > 1:
        selections = {f"all {len(blocks)} data sets": blocks} | selections
    result = []
    for title, data in selections.items():
        variants = tuple(v for v in table.variants if run_on.get(v, set()).issuperset(data))
        selected = rows[rows[DATA].isin(data) & rows["variant"].isin(variants)]
        if variants:
            result.append(View(title, metric, tuple(data), variants, factors, selected))
    return result


def find_gaps(table: RunTable) -> pd.DataFrame:
    """Lists the settings that lack seeds which other settings have on the same data; `seeds there` may be empty."""
    seeds_of = table.labelled.groupby([DATA, "variant"])["seed"].agg(set).to_dict()
    gaps = []
    for block in table.blocks:
        every = set().union(*(seeds for (data, _), seeds in seeds_of.items() if data == block))
        for variant in table.variants:
            present = seeds_of.get((block, variant), set())
            if missing := every - present:
                gaps.append((block, variant, *(" ".join(map(str, sorted(seeds))) for seeds in (present, missing))))
    return pd.DataFrame(gaps, columns=[DATA, "setting", "seeds there", "seeds missing"])


def find_reference(table: RunTable, reference: str) -> str:
    """Returns the setting that a reference names.

    Args:
        table: The runs.
        reference: `factor=level ...` that fits one setting only; or the name of a run folder, with or without its
            seed and hash.

    Raises:
        UserError: No setting or several settings match.
    """
    if "=" in reference:
        chosen = dict(part.partition("=")[::2] for part in reference.split())
        matches = [v for v, by_factor in table.variants.items() if chosen.items() <= by_factor.items()]
    else:
        rows = table.labelled
        bare = rows["run"].str.replace(r"-s[^-]*-[0-9a-f]{10}$", "", regex=True)
        matches = list(rows.loc[(bare == reference) | (rows["run"] == reference), "variant"].unique())
    if len(matches) != 1:
        listed = "\n  ".join(matches or table.variants)
        problem = "fits several settings" if matches else "is none of the settings"
        raise UserError(f"reference='{reference}' {problem}; write one in full, or name one of its runs:\n  {listed}")
    return matches[0]


def marginal_effects(view: View, baselines: Mapping[str, str], generator: np.random.Generator) -> pd.DataFrame:
    """Compares each level of each factor with the factor's baseline level, all else being equal.

    Levels are compared at the same data, seed and levels of the other factors. The differences of one seed are averaged
    before the test, so that seeds remain the replications.

    Args:
        view: The metric and its data sets.
        baselines: Factor -> level; by default the plain level.
        generator: Draws the sign patterns if there are too many to enumerate.

    Returns:
        One row per level, the factor with the largest effect first. `mean`: over contexts that were run with all
        levels, NaN without any. `difference`: to the `baseline`, NaN for the baseline itself and without a context that
        was run with both. `contexts`: number of comparisons.
    """
    rows, tests = [], []
    for factor in view.factors:
        contexts = _contexts(view, factor)
        if contexts.shape[1] < 2:
            continue
        chosen = baselines.get(factor)
        baseline = chosen if chosen in contexts.columns else contexts.columns[0]
        means = contexts.dropna().groupby(DATA).mean().mean()  # no rows: all NaN
        for level in contexts.columns:
            gains = (contexts[level] - contexts[baseline]).dropna()
            test = difference(_by_block(gains) if level != baseline else [], generator)
            effect = (test.mean, *test.interval, len(gains), test.p_student)
            rows.append((factor, level, baseline, float(means.get(level, np.nan)), *effect))
            tests.append(test)
    count = sum(test.pairs > 0 for test in tests)
    table = pd.DataFrame(rows, columns=list(EFFECTS)).astype(dict.fromkeys(("difference", "low", "high"), float))
    table["p_holm"] = holm([test.p(count) for test in tests])
    reach = table.groupby("factor")["difference"].agg(lambda d: max(0.0, d.max()) - min(0.0, d.min()))
    return table.sort_values("factor", key=lambda f: -f.map(reach).fillna(0.0), kind="stable", ignore_index=True)


def _contexts(view: View, factor: str) -> pd.DataFrame:
    """Returns the mean metric with contexts (data, seed, other factors) as rows and levels of the factor as columns."""
    rows = view.rows[view.rows[factor] != ABSENT].dropna(subset=[view.metric])
    others = [DATA, "seed", *(f for f in view.factors if f != factor)]
    wide = rows.groupby([*others, factor])[view.metric].mean().unstack(factor)
    return wide[levels(list(wide.columns))]


def _by_block(values: pd.Series) -> Strata:
    """Averages over everything but data and seed; returns one array (seeds,) per data set."""
    seeds = values.groupby([DATA, "seed"]).mean()
    return [group.to_numpy() for _, group in seeds.groupby(DATA)]


def interactions(view: View) -> list[pd.DataFrame]:
    """Returns one table of means per pair of factors; the data are a factor if the view has several data sets.

    The columns are the two factors, mean, low and high (Student's interval over seeds) and runs. `attrs["whole"]`: all
    contexts were run with each combination of levels. Incomplete contexts are left out, unless all are incomplete.
    """
    names = [*view.factors, *([DATA] if len(view.blocks) > 1 else [])]
    rows = view.rows.dropna(subset=[view.metric])
    tables = []
    for first, second in itertools.combinations(names, 2):
        present = rows[(rows[first] != ABSENT) & (rows[second] != ABSENT)]
        if present[first].nunique() > 1 and present[second].nunique() > 1:
            others = [f for f in [*view.factors, DATA] if f not in (first, second)]
            tables.append(_interaction(present, others, first, second, view.metric))
    return tables


def _interaction(rows: pd.DataFrame, others: list[str], first: str, second: str, metric: str) -> pd.DataFrame:
    complete = pd.Series(True, index=rows.index)
    if others:
        both = rows.assign(both=rows[first] + "\0" + rows[second])
        complete = both.groupby(others)["both"].transform("nunique") == both["both"].nunique()
    used = rows[complete] if complete.any() else rows
    cells = []
    for (one, other), group in used.groupby([first, second]):
        strata = _by_block(group.set_index([DATA, "seed"])[metric])
        low, high = student(strata)
        cells.append({first: one, second: other, "mean": mean(strata), "low": low, "high": high, "runs": len(group)})
    table = pd.DataFrame(cells)
    for name in (first, second):
        table[name] = pd.Categorical(table[name], levels(list(table[name])))
    table = table.sort_values([first, second], ignore_index=True)
    table.attrs["whole"] = bool(complete.all())
    return table
