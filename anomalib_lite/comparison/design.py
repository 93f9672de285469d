"""The runs as an experiment: settings, data sets, seeds, and what has to be there for two of them to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from anomalib_lite.comparison.factors import levels
from anomalib_lite.comparison.leaves import ABSENT
from anomalib_lite.comparison.table import Table
from anomalib_lite.errors import UserError

ONLY = "all runs"  # the one setting of runs that differ in their seeds alone
Series = dict[int, float]  # seed -> value


@dataclass(frozen=True)
class View:
    """One data set, or several of which only settings that were run on all of them are compared."""

    title: str
    blocks: tuple[str, ...]
    variants: tuple[str, ...]


@dataclass(frozen=True)
class Design:
    """`variants`: label of a setting -> its level of each factor, in the order of the long table."""

    rows: pd.DataFrame  # the long table, with the column `variant`
    factors: list[str]
    blocks: list[str]
    variants: dict[str, dict[str, str]]

    def series(self, metric: str) -> dict[tuple[str, str], Series]:
        """(setting, data set) -> seed -> value; without what was not measured. Runs that differ in factors that were
        not asked for are averaged.
        """
        known = self.rows[["variant", "data", "seed", metric]].dropna()
        found: dict[tuple[str, str], Series] = {}
        for (variant, block, seed), value in known.groupby(["variant", "data", "seed"])[metric].mean().items():
            found.setdefault((variant, block), {})[int(seed)] = float(value)
        return found

    def part(self, view: View) -> pd.DataFrame:
        """The runs of a view: of its data sets, and of settings that it compares."""
        return self.rows[self.rows["data"].isin(view.blocks) & self.rows["variant"].isin(view.variants)]

    def level(self, variant: str, factor: str) -> str:
        return self.variants[variant][factor]


def make_design(table: Table) -> Design:
    rows = table.rows.copy()
    named = [{f: row[f] for f in table.factors} for row in rows.to_dict("records")]
    rows["variant"] = [variant_label(chosen) for chosen in named]
    order = {f: {level: i for i, level in enumerate(levels(list(rows[f])))} for f in table.factors}
    variants = dict(zip(rows["variant"], named, strict=True))
    variants = dict(sorted(variants.items(), key=lambda item: [order[f][item[1][f]] for f in table.factors]))
    return Design(rows, table.factors, sorted(rows["data"].unique()), variants)


def variant_label(chosen: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in chosen.items() if value != ABSENT) or ONLY


def views(design: Design, series: Mapping[tuple[str, str], Series]) -> list[View]:
    """All data sets together, where some setting was run on all of them, then each on its own."""
    on = {v: [b for b in design.blocks if (v, b) in series] for v in design.variants}
    found = []
    blocks = [b for b in design.blocks if any(b in there for there in on.values())]
    everywhere = tuple(v for v, there in on.items() if there == blocks)
    if len(blocks) > 1 and everywhere:
        found.append(View(f"all {len(blocks)} data sets", tuple(blocks), everywhere))
    return found + [View(b, (b,), tuple(v for v, there in on.items() if b in there)) for b in blocks]


def strata(series: Mapping[tuple[str, str], Series], view: View, variant: str) -> list[np.ndarray]:
    """The values of a setting, one array (seeds,) for each data set of the view."""
    return [np.array([v for _, v in sorted(series[variant, block].items())]) for block in view.blocks]


def paired(series: Mapping[tuple[str, str], Series], view: View, a: str, b: str) -> list[np.ndarray]:
    """Differences a - b of the seeds that both have, one array for each data set where they share one."""
    found = []
    for block in view.blocks:
        x, y = series[a, block], series[b, block]
        if shared := sorted(x.keys() & y.keys()):
            found.append(np.array([x[seed] - y[seed] for seed in shared]))
    return found


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
