"""What metrics say of the settings: means, pairs, quality against its price; what other test images change."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

from anomalib_lite.comparison import design as plan
from anomalib_lite.comparison import statistics as st
from anomalib_lite.comparison.design import View
from anomalib_lite.comparison.runs import COSTS, Run
from anomalib_lite.comparison.statistics import Interval, Ranks
from anomalib_lite.comparison.table import RunTable
from anomalib_lite.errors import UserError
from anomalib_lite.runs.folder import RunFolder

METRICS = ("image_auroc", "pixel_auroc", "aupro")  # shown unless others are asked for
MANY = 10  # runs of a setting from which on its interquartile mean is shown
RESAMPLES = 5000  # of the bootstrap
MARGIN = 0.01  # of image AUROC: a difference that surely lies within it is practically none
IMAGE_COLUMNS = ["data", "setting", "seed", "auroc", "low", "high"]
IMAGE_COLUMNS += ["difference", "difference_low", "difference_high", "p_holm"]


@dataclass(frozen=True)
class Study:
    """What one view says. `summaries`: `summarise`'s, with the costs. `effects`: see `marginal_effects`.
    `interactions`: one table for each pair of factors.
    """

    view: View
    summaries: pd.DataFrame
    pairs: pd.DataFrame
    effects: pd.DataFrame
    interactions: list[pd.DataFrame]

    @property
    def metric(self) -> str:
        return self.view.metric

    @property
    def best(self) -> pd.Series:
        return self.summaries.loc[self.summaries["best"].idxmax()]

    @property
    def ranks(self) -> Ranks | None:
        """None where there are too few data sets or settings."""
        view = self.view
        means = [
            [view.sign * float(np.mean([*view.series[v, b].values()])) for v in view.variants] for b in view.blocks
        ]
        return st.rank(view.variants, np.array(means))


@dataclass(frozen=True)
class Comparison:
    table: RunTable
    reference: str | None
    metrics: list[str]
    studies: list[Study]
    images: pd.DataFrame  # `image_table`'s
    resamples: int
    margin: float

    @property
    def views(self) -> list[View]:
        """Each once, whatever the metric."""
        return list({study.view.title: study.view for study in self.studies}.values())

    def of(self, view: View) -> dict[str, Study]:
        """Metric -> study."""
        return {study.metric: study for study in self.studies if study.view.title == view.title}


def compare(
    table: RunTable,
    metrics: Sequence[str] | None = None,
    reference: str | None = None,
    resamples: int = RESAMPLES,
    margin: float = MARGIN,
) -> Comparison:
    """metrics: by default image AUROC, pixel AUROC and AUPRO. reference: a setting that all others are held against.

    Errors: UserError for a metric that no run has, or a reference that names no setting.
    """
    reference = None if reference is None else plan.find_reference(table, reference)
    metrics = _metrics(table, metrics)
    jobs = [view for metric in metrics for view in plan.views(table, metric)]
    studies = [_study(table, view, reference, resamples) for view in tqdm(jobs, "compare", delay=2, leave=False)]
    against = reference or next((s.best.setting for s in studies if s.metric == "image_auroc"), studies[0].best.setting)
    return Comparison(table, reference, metrics, studies, image_table(table, against, margin), resamples, margin)


def _study(table: RunTable, view: View, reference: str | None, resamples: int) -> Study:
    generator = np.random.default_rng(0)
    summaries = price(summarise(view, resamples, generator), view)
    pairs = compare_pairs(view, reference, resamples, generator)
    baselines = {} if reference is None else table.variants[reference]
    return Study(view, summaries, pairs, plan.marginal_effects(view, baselines, generator), plan.interactions(view))


def _metrics(table: RunTable, asked: Sequence[str] | None) -> list[str]:
    known = table.rows.drop(columns=["seed", *table.factors]).select_dtypes("number").dropna(axis=1, how="all")
    if asked is None:
        return [m for m in METRICS if m in known] or [m for m in known if m not in COSTS][:1]
    if unknown := [name for name in asked if name not in known]:
        raise UserError(f"metrics: no run measured {', '.join(unknown)}. There are: {', '.join(known)}.")
    return list(asked)


def ends(name: str, interval: Interval) -> dict[str, float]:
    """An interval as two cells."""
    return {f"{name}low": interval.low, f"{name}high": interval.high}


def summarise(view: View, resamples: int, generator: np.random.Generator) -> pd.DataFrame:
    """A row a setting, in the view's order: mean, deviation between seeds, bootstrap and Student's interval, and with
    many runs the interquartile mean. `seeds` is the fewest that a data set has.

    The best mean is marked, among settings with two seeds or more where there are such: a single seed may be lucky.
    """
    rows = []
    for variant in view.variants:
        data = view.strata(variant)
        row = {"setting": variant, "mean": st.mean(data), "deviation": st.within(data)}
        row |= ends("bootstrap_", st.bootstrap(data, st.means, resamples, generator))
        row |= ends("", st.student(data))
        if sum(map(len, data)) >= MANY:
            row |= {"iqm": float(st.interquartile_means(*(x[None] for x in data))[0])}
            row |= ends("iqm_", st.bootstrap(data, st.interquartile_means, resamples, generator))
        rows.append(row | {"runs": sum(map(len, data)), "seeds": min(map(len, data))})
    found = pd.DataFrame(rows)
    rank = [(seeds > 1, view.sign * mean) for seeds, mean in zip(found["seeds"], found["mean"], strict=True)]
    return found.assign(best=np.arange(len(rank)) == max(range(len(rank)), key=rank.__getitem__))


def price(summaries: pd.DataFrame, view: View) -> pd.DataFrame:
    """Adds milliseconds an image (median over runs, since other work on the machine only adds to it), megabytes of the
    model (mean), and whether a setting lies on the front of each.
    """
    by_block = view.rows.groupby(["variant", "data"])[["ms_per_image", "model_mb"]]
    costs = by_block.agg({"ms_per_image": "median", "model_mb": "mean"}).groupby("variant").mean()
    found = summaries.join(costs, on="setting")
    quality = view.sign * found["mean"].to_numpy()
    for cost, name in (("ms_per_image", "fastest"), ("model_mb", "smallest")):
        found[name] = front(np.column_stack([quality, -found[cost].to_numpy(float)]))
    return found


def front(points: np.ndarray) -> np.ndarray:
    """Which of the points (n, criteria), more being better, no other one dominates: as good in all criteria and better
    in one. (n,) bool; a point with NaN is not on the front, and dominates none.
    """
    known = ~np.isnan(points).any(axis=1)
    at_least = (points[:, None] >= points[None]).all(axis=2)
    above = (points[:, None] > points[None]).any(axis=2)
    return known & ~(at_least & above).any(axis=0)


def compare_pairs(view: View, reference: str | None, resamples: int, generator: np.random.Generator) -> pd.DataFrame:
    """A row for each pair of settings: `difference` is the mean of `setting` less that of `less`, p values are of both
    tests and Holm's, `improvement` is the probability that a run of `setting` is the better one.

    Of all pairs, the better setting comes first; with a reference that takes part in the view, it is always `less`.
    """
    pairs: list[tuple[str, str]] = list(itertools.combinations(view.variants, 2))
    if reference in view.variants:
        pairs = [(variant, str(reference)) for variant in view.variants if variant != reference]
    rows, found = [], []
    for a, b in pairs:
        x, y = view.strata(a), view.strata(b)
        gain = view.sign * (st.mean(x) - st.mean(y))
        if reference not in view.variants and gain < 0:
            a, b, x, y, gain = b, a, y, x, -gain
        both = [*x, *y] if view.sign > 0 else [*y, *x]
        share = float(st.improvements(*(values[None] for values in both))[0])
        drawn = st.bootstrap(both, st.improvements, resamples, generator)
        found.append(st.difference(view.paired(a, b), generator))
        rows.append({"setting": a, "less": b} | _tested(found[-1], len(pairs)) | {"improvement": share})
        rows[-1] |= ends("improvement_", drawn) | {"better": gain > 0}
    table = pd.DataFrame(rows)
    if not pairs:
        return table
    table["p_holm"] = st.holm([d.p(len(pairs)) for d in found])
    table["significant"] = table["p_holm"] < st.SIGNIFICANT
    table["verdict"] = [_verdict(row, d) for row, d in zip(table.to_dict("records"), found, strict=True)]
    return table


def _tested(found: st.Difference, rows: int) -> dict[str, object]:
    by = "both tests" if found.flips_decide(rows) else "Student alone"
    cells = {"difference": found.mean, **ends("", found.interval), "pairs": found.pairs, "deviation": found.deviation}
    cells |= {"p_student": found.p_student, "p_sign_flips": found.p_flips, "p_least": found.p_least}
    return cells | {"holm_of": "sign flips" if found.constant else by, "varies": found.varies}


def _verdict(pair: Mapping[str, object], found: st.Difference) -> str:
    if not found.pairs:
        return "no seed in common"
    if not found.varies:
        return "one seed: no statement about chance"
    if pair["significant"]:
        words = "better" if pair["better"] else "worse"
        return words if pair["holm_of"] != "Student alone" else f"{words}, if differences are normal"
    if found.constant:
        return f"the same in every pair{': equal' if found.mean == 0 else ''}"
    return "not told apart"


def image_table(table: RunTable, against: str, margin: float) -> pd.DataFrame:
    """A row a run whose predictions.csv is there: its image AUROC with the interval over test images; and its
    difference to the run of the setting `against` with the same data and seed, by DeLong's test, with Holm's p.
    """
    rows = []
    keys = table.labelled[["data", "variant", "seed"]].itertuples(index=False, name=None)
    known = {key: found for key, run in zip(keys, table.runs, strict=True) if (found := _predictions(run)) is not None}
    for (data, variant, seed), own in known.items():
        nok, scores = own["label"].to_numpy() == 1, own["score"].to_numpy()
        auroc = stats.mannwhitneyu(scores[nok], scores[~nok]).statistic / (nok.sum() * (~nok).sum())
        row = {"data": data, "setting": variant, "seed": seed, "auroc": auroc}
        row |= ends("", st.auroc_interval(nok, scores))
        other = known.get((data, against, seed))
        if variant != against and other is not None and own.index.equals(other.index):
            difference, interval, p = st.delong(nok, scores, other["score"].to_numpy())
            row |= {"difference": difference, **ends("difference_", interval), "p_holm": p}
        rows.append(row)
    found = pd.DataFrame(rows, columns=IMAGE_COLUMNS)
    found["p_holm"] = st.holm(found["p_holm"])
    found["verdict"] = [_image_verdict(row, margin) for row in found.itertuples()]
    return found


def _predictions(run: Run) -> pd.DataFrame | None:
    """By image; None where no AUROC can be had of them."""
    found = pd.DataFrame(RunFolder(run.folder).predictions(), columns=["image", "label", "score"])
    counts = found["label"].value_counts()
    return found.set_index("image").sort_index() if len(counts) > 1 and counts.min() > 1 else None


def _image_verdict(row: Any, margin: float) -> str:
    if math.isnan(row.difference):
        return ""
    words = ("better" if row.difference > 0 else "worse") if row.p_holm < st.SIGNIFICANT else "not told apart"
    if -margin < row.difference_low and row.difference_high < margin:  # two one-sided tests
        return "practically equal" if words == "not told apart" else f"{words}, practically equal"
    return words
