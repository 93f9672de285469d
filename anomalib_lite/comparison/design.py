"""The runs as an experiment: settings, data sets and seeds; what each factor changes, and what changes that."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from anomalib_lite.comparison.statistics import Strata, difference, holm, mean, student
from anomalib_lite.comparison.table import ABSENT, RunTable, levels
from anomalib_lite.errors import UserError

ONLY = "all runs"  # the one setting of runs that differ in their seeds alone
DATA = "data"
EFFECTS = ("factor", "level", "baseline", "mean", "difference", "low", "high", "contexts", "p_student", "p_holm")
Series = Mapping[tuple[str, str], Mapping[int, float]]  # (setting, data set) -> seed -> value


@dataclass(frozen=True)
class View:
    """One data set, or several of which only settings that were run on all of them are compared."""

    title: str
    blocks: tuple[str, ...]
    variants: tuple[str, ...]

    def strata(self, series: Series, variant: str) -> list[np.ndarray]:
        """The values of a setting, one array (seeds,) for each data set."""
        return [np.array([v for _, v in sorted(series[variant, block].items())]) for block in self.blocks]

    def paired(self, series: Series, a: str, b: str) -> list[np.ndarray]:
        """Differences a - b of the seeds that both have, one array for each data set where they share one."""
        found = []
        for block in self.blocks:
            x, y = series[a, block], series[b, block]
            if shared := sorted(x.keys() & y.keys()):
                found.append(np.array([x[seed] - y[seed] for seed in shared]))
        return found


@dataclass(frozen=True)
class Design:
    """`variants`: label of a setting -> its level of each factor, in the order of the long table."""

    rows: pd.DataFrame  # the long table, with the column `variant`
    factors: list[str]
    blocks: list[str]
    variants: dict[str, dict[str, str]]

    def series(self, metric: str) -> Series:
        """Without what was not measured. Runs that differ in factors that were not asked for are averaged."""
        known = self.rows[["variant", "data", "seed", metric]].dropna()
        found: dict[tuple[str, str], dict[int, float]] = {}
        for (variant, block, seed), value in known.groupby(["variant", "data", "seed"])[metric].mean().items():
            found.setdefault((variant, block), {})[int(seed)] = float(value)
        return found

    def part(self, view: View) -> pd.DataFrame:
        """The runs of a view: of its data sets, and of settings that it compares."""
        return self.rows[self.rows["data"].isin(view.blocks) & self.rows["variant"].isin(view.variants)]

    def gaps(self) -> pd.DataFrame:
        """Settings that lack seeds which others have on the same data; `seeds there` may be empty."""
        known = self.rows.groupby(["data", "variant"])["seed"].agg(set).to_dict()
        gaps = []
        for block in self.blocks:
            every = set().union(*(seeds for (data, _), seeds in known.items() if data == block))
            for variant in self.variants:
                there = known.get((block, variant), set())
                if absent := every - there:
                    gaps.append((block, variant, *(" ".join(map(str, sorted(seeds))) for seeds in (there, absent))))
        return pd.DataFrame(gaps, columns=["data", "setting", "seeds there", "seeds missing"])


def make_design(table: RunTable) -> Design:
    rows = table.rows.copy()
    chosen = rows[table.factors].to_dict("records")
    rows["variant"] = [" ".join(f"{k}={v}" for k, v in one.items() if v != ABSENT) or ONLY for one in chosen]
    order = {f: levels(list(rows[f])) for f in table.factors}
    variants = dict(zip(rows["variant"], chosen or [{}] * len(rows), strict=True))
    variants = dict(sorted(variants.items(), key=lambda item: [order[f].index(item[1][f]) for f in table.factors]))
    return Design(rows, table.factors, sorted(rows["data"].unique()), variants)


def views(design: Design, series: Series) -> list[View]:
    """All data sets together, where some setting was run on all of them, then each on its own."""
    on = {v: [b for b in design.blocks if (v, b) in series] for v in design.variants}
    found = []
    blocks = [b for b in design.blocks if any(b in there for there in on.values())]
    everywhere = tuple(v for v, there in on.items() if there == blocks)
    if len(blocks) > 1 and everywhere:
        found.append(View(f"all {len(blocks)} data sets", tuple(blocks), everywhere))
    return found + [View(b, (b,), tuple(v for v, there in on.items() if b in there)) for b in blocks]


def find_reference(design: Design, asked: str) -> str:
    """The setting that a reference names: `factor=level ...` (those left out may only have one answer), or the name
    of a run's folder, or its beginning.

    Errors: UserError where none or several match.
    """
    wanted = dict(part.partition("=")[::2] for part in asked.split())
    if "=" in asked:
        found = [v for v, chosen in design.variants.items() if all(chosen.get(k) == w for k, w in wanted.items())]
    else:
        bare = design.rows["run"].str.replace(r"-s[^-]*-[0-9a-f]{10}$", "", regex=True)
        found = list(design.rows.loc[(bare == asked) | (design.rows["run"] == asked), "variant"].unique())
    if len(found) != 1:
        listed = "\n  ".join(found or design.variants)
        said = "fits several settings" if found else "is none of the settings"
        raise UserError(f"reference='{asked}' {said}:\n  {listed}")
    return found[0]


def marginal_effects(
    design: Design, view: View, metric: str, baselines: Mapping[str, str], generator: np.random.Generator,
    confidence: float = 0.95,
) -> pd.DataFrame:  # fmt: skip
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
