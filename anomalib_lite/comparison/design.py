"""The runs as an experiment: settings, data sets, seeds, and what has to be there for two of them to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from anomalib_lite.comparison.factors import ABSENT, levels
from anomalib_lite.comparison.table import RunTable
from anomalib_lite.errors import UserError

ONLY = "all runs"  # the one setting of runs that differ in their seeds alone
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
