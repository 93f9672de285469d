"""The runs as an experiment: settings, data sets and seeds; what each factor changes, and what changes that."""

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
    """A metric on one data set, or on several, of which only settings that were run on all of them are compared."""

    title: str
    metric: str
    blocks: tuple[str, ...]
    variants: tuple[str, ...]
    factors: tuple[str, ...]
    rows: pd.DataFrame  # of the table with its settings' names, those of these data sets and settings

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return -1 if self.metric in LOWER_IS_BETTER else 1

    @cached_property
    def series(self) -> dict[tuple[str, str], dict[int, float]]:
        """(setting, data set) -> seed -> value. Runs that differ in factors that were not asked for are averaged."""
        known = self.rows[["variant", DATA, "seed", self.metric]].dropna()
        found: dict[tuple[str, str], dict[int, float]] = {}
        for (variant, block, seed), value in known.groupby(["variant", DATA, "seed"])[self.metric].mean().items():
            found.setdefault((variant, block), {})[int(seed)] = float(value)
        return found

    def strata(self, variant: str) -> Strata:
        """The values of a setting, one array (seeds,) for each data set."""
        return [np.array([v for _, v in sorted(self.series[variant, block].items())]) for block in self.blocks]

    def paired(self, a: str, b: str) -> Strata:
        """Differences a - b of the seeds that both have, one array for each data set where they share one."""
        found = []
        for block in self.blocks:
            x, y = self.series[a, block], self.series[b, block]
            if shared := sorted(x.keys() & y.keys()):
                found.append(np.array([x[seed] - y[seed] for seed in shared]))
        return found


def views(table: RunTable, metric: str) -> list[View]:
    """All data sets together, where some setting was run on all of them, then each on its own."""
    rows, factors = table.labelled, tuple(table.factors)
    on = rows.dropna(subset=[metric]).groupby("variant")[DATA].agg(set).to_dict()
    blocks = [b for b in table.blocks if any(b in there for there in on.values())]
    chosen = {b: [b] for b in blocks}
    if len(blocks) > 1:
        chosen = {f"all {len(blocks)} data sets": blocks} | chosen
    found = []
    for title, data in chosen.items():
        variants = tuple(v for v in table.variants if on.get(v, set()).issuperset(data))
        own = rows[rows[DATA].isin(data) & rows["variant"].isin(variants)]
        if variants:
            found.append(View(title, metric, tuple(data), variants, factors, own))
    return found


def find_gaps(table: RunTable) -> pd.DataFrame:
    """Settings that lack seeds which others have on the same data; `seeds there` may be empty."""
    known = table.labelled.groupby([DATA, "variant"])["seed"].agg(set).to_dict()
    gaps = []
    for block in table.blocks:
        every = set().union(*(seeds for (data, _), seeds in known.items() if data == block))
        for variant in table.variants:
            there = known.get((block, variant), set())
            if absent := every - there:
                gaps.append((block, variant, *(" ".join(map(str, sorted(seeds))) for seeds in (there, absent))))
    return pd.DataFrame(gaps, columns=[DATA, "setting", "seeds there", "seeds missing"])


def find_reference(table: RunTable, asked: str) -> str:
    """The setting that a reference names: `factor=level ...` (those left out may only have one answer), or the name
    of a run's folder, or its beginning.

    Errors: UserError where none or several match.
    """
    if "=" in asked:
        wanted = dict(part.partition("=")[::2] for part in asked.split())
        found = [v for v, chosen in table.variants.items() if all(chosen.get(k) == w for k, w in wanted.items())]
    else:
        rows = table.labelled
        bare = rows["run"].str.replace(r"-s[^-]*-[0-9a-f]{10}$", "", regex=True)
        found = list(rows.loc[(bare == asked) | (rows["run"] == asked), "variant"].unique())
    if len(found) != 1:
        listed = "\n  ".join(found or table.variants)
        said = "fits several settings" if found else "is none of the settings"
        raise UserError(f"reference='{asked}' {said}; write the whole of one, or its run:\n  {listed}")
    return found[0]


def marginal_effects(view: View, baselines: Mapping[str, str], generator: np.random.Generator) -> pd.DataFrame:
    """A row for each level of each factor, the factor that moves the metric most first. `mean` is over what was run
    with all levels, NaN where nothing was; `difference` is to the `baseline`, NaN for it itself and where nothing was
    run with both; `contexts` counts the comparisons.

    Levels are compared where all else is equal: settings of the other factors, data and seed. The differences of one
    seed are averaged first, so that seeds stay what varies. baselines: factor -> level; by default the plain one.
    """
    rows, found = [], []
    for factor in view.factors:
        contexts = _contexts(view, factor)
        if contexts.shape[1] < 2:
            continue
        asked = baselines.get(factor)
        baseline = asked if asked in contexts.columns else contexts.columns[0]
        means = contexts.dropna().groupby(DATA).mean().mean()  # no rows: all NaN
        for level in contexts.columns:
            gains = (contexts[level] - contexts[baseline]).dropna()
            tested = difference(_by_block(gains) if level != baseline else [], generator)
            middle = float(means.get(level, np.nan))
            gained = (tested.mean, *tested.interval, len(gains), tested.p_student)
            rows.append((factor, level, baseline, middle, *gained))
            found.append(tested)
    count = sum(tested.pairs > 0 for tested in found)
    table = pd.DataFrame(rows, columns=list(EFFECTS)).astype(dict.fromkeys(("difference", "low", "high"), float))
    table["p_holm"] = holm([tested.p(count) for tested in found])
    reach = table.groupby("factor")["difference"].agg(lambda d: max(0.0, d.max()) - min(0.0, d.min()))
    return table.sort_values("factor", key=lambda f: -f.map(reach).fillna(0.0), kind="stable", ignore_index=True)


def _contexts(view: View, factor: str) -> pd.DataFrame:
    """Everything else by rows (data, seed, other factors), levels by columns."""
    rows = view.rows[view.rows[factor] != ABSENT].dropna(subset=[view.metric])
    others = [DATA, "seed", *(f for f in view.factors if f != factor)]
    wide = rows.groupby([*others, factor])[view.metric].mean().unstack(factor)
    return wide[levels(list(wide.columns))]


def _by_block(values: pd.Series) -> Strata:
    """One array (seeds,) a data set: the mean over everything else."""
    seeds = values.groupby([DATA, "seed"]).mean()
    return [group.to_numpy() for _, group in seeds.groupby(DATA)]


def interactions(view: View) -> list[pd.DataFrame]:
    """The means of the combinations of two factors' levels; parallel lines say that one does not change what the other
    does. One table for each two factors, the data among them where the view has several: their names are its first
    two columns, then mean, low and high (Student's interval over seeds) and runs.

    `attrs["whole"]`: all else was run with each combination; if not, means are of what there is.
    """
    names = [*view.factors, *([DATA] if len(view.blocks) > 1 else [])]
    rows = view.rows.dropna(subset=[view.metric])
    found = []
    for first, second in itertools.combinations(names, 2):
        known = rows[(rows[first] != ABSENT) & (rows[second] != ABSENT)]
        if known[first].nunique() > 1 and known[second].nunique() > 1:
            others = [f for f in [*view.factors, DATA] if f not in (first, second)]
            found.append(_interaction(known, others, first, second, view.metric))
    return found


def _interaction(rows: pd.DataFrame, others: list[str], first: str, second: str, metric: str) -> pd.DataFrame:
    there = pd.Series(True, index=rows.index)
    if others:
        both = rows.assign(both=rows[first] + "\0" + rows[second])
        there = both.groupby(others)["both"].transform("nunique") == both["both"].nunique()
    used = rows[there] if there.any() else rows
    cells = []
    for (one, other), group in used.groupby([first, second]):
        strata = _by_block(group.set_index([DATA, "seed"])[metric])
        low, high = student(strata)
        cells.append({first: one, second: other, "mean": mean(strata), "low": low, "high": high, "runs": len(group)})
    table = pd.DataFrame(cells)
    for name in (first, second):
        table[name] = pd.Categorical(table[name], levels(list(table[name])))
    table = table.sort_values([first, second], ignore_index=True)
    table.attrs["whole"] = bool(there.all())
    return table
