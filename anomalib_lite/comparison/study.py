"""Analyses metrics per setting: means, pairwise differences, quality against cost, and intervals over test images."""

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

METRICS = ("image_auroc", "pixel_auroc", "aupro")  # shown by default
MANY = 10  # fewest runs of a setting for which the interquartile mean is shown
RESAMPLES = 5000  # of the bootstrap
MARGIN = 0.01  # of image AUROC: a difference whose interval lies within it is practically zero
IMAGE_COLUMNS = ["data", "setting", "seed", "auroc", "low", "high"]
IMAGE_COLUMNS += ["difference", "difference_low", "difference_high", "p_holm"]
NOT_SIGNIFICANT = "not significant"  # a verdict


@dataclass(frozen=True)
class Study:
    """The analysis of one view."""

    view: View
    summaries: pd.DataFrame  # see `summarise` and `price`
    pairs: pd.DataFrame  # see `compare_pairs`
    effects: pd.DataFrame  # see `marginal_effects`
    interactions: list[pd.DataFrame]  # one table per pair of factors

    @property
    def metric(self) -> str:
        return self.view.metric

    @property
    def best(self) -> pd.Series:
        return self.summaries.loc[self.summaries["best"].idxmax()]

    @property
    def ranks(self) -> Ranks | None:
        """Mean ranks of the settings; None with too few data sets or settings."""
        view = self.view
        means = [
            [view.sign * float(np.mean([*view.series[v, b].values()])) for v in view.variants] for b in view.blocks
        ]
        return st.rank(view.variants, np.array(means))


@dataclass(frozen=True)
class Comparison:
    """The studies of all views and metrics."""

    table: RunTable
    reference: str | None
    metrics: list[str]
    studies: list[Study]
    images: pd.DataFrame  # `image_table`'s
    resamples: int
    margin: float

    @property
    def views(self) -> list[View]:
        """The distinct selections of data sets, over all metrics."""
        return list({study.view.title: study.view for study in self.studies}.values())

    def of(self, view: View) -> dict[str, Study]:
        """Returns the studies of a view by metric."""
        return {study.metric: study for study in self.studies if study.view.title == view.title}


def compare(
    table: RunTable,
    metrics: Sequence[str] | None = None,
    reference: str | None = None,
    resamples: int = RESAMPLES,
    margin: float = MARGIN,
) -> Comparison:
    """Compares the settings of a table of runs.

    Args:
        table: The runs.
        metrics: By default image AUROC, pixel AUROC and AUPRO.
        reference: The setting that all others are compared with; by default all pairs are compared.
        resamples: Of the bootstrap.
        margin: Of image AUROC, within which a difference is practically zero.

    Raises:
        UserError: No run has a metric, or the reference does not name a setting.
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


def _metrics(table: RunTable, names: Sequence[str] | None) -> list[str]:
    measured = table.rows.drop(columns=["seed", *table.factors]).select_dtypes("number").dropna(axis=1, how="all")
    if names is None:
        return [m for m in METRICS if m in measured] or [m for m in measured if m not in COSTS][:1]
    if unknown := [name for name in names if name not in measured]:
        raise UserError(f"metrics: no run measured {', '.join(unknown)}. There are: {', '.join(measured)}.")
    return list(names)


def ends(name: str, interval: Interval) -> dict[str, float]:
    """Returns the bounds of an interval as two table cells."""
    return {f"{name}low": interval.low, f"{name}high": interval.high}


def summarise(view: View, resamples: int, generator: np.random.Generator) -> pd.DataFrame:
    """Returns one row per setting: mean, deviation between seeds, bootstrap and Student's interval, and with many runs
    the interquartile mean. `seeds` is the smallest number of seeds on a data set.

    `best` marks the best mean among the settings with at least two seeds, if there are any, because a single seed may
    be lucky.
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
    table = pd.DataFrame(rows)
    rank = [(seeds > 1, view.sign * mean) for seeds, mean in zip(table["seeds"], table["mean"], strict=True)]
    return table.assign(best=np.arange(len(rank)) == max(range(len(rank)), key=rank.__getitem__))


def price(summaries: pd.DataFrame, view: View) -> pd.DataFrame:
    """Adds milliseconds per image (median over runs, because other load only increases them), megabytes of the model
    (mean), and whether a setting is on the Pareto front of quality and either cost.
    """
    by_block = view.rows.groupby(["variant", "data"])[["ms_per_image", "model_mb"]]
    costs = by_block.agg({"ms_per_image": "median", "model_mb": "mean"}).groupby("variant").mean()
    priced = summaries.join(costs, on="setting")
    quality = view.sign * priced["mean"].to_numpy()
    for cost, name in (("ms_per_image", "fastest"), ("model_mb", "smallest")):
        priced[name] = front(np.column_stack([quality, -priced[cost].to_numpy(float)]))
    return priced


def front(points: np.ndarray) -> np.ndarray:
    """Finds the Pareto front of points (n, criteria), where larger is better; returns bool (n,).

    A point with NaN is not on the front and dominates no other point.
    """
    measured = ~np.isnan(points).any(axis=1)
    at_least = (points[:, None] >= points[None]).all(axis=2)
    above = (points[:, None] > points[None]).any(axis=2)
    return measured & ~(at_least & above).any(axis=0)


def compare_pairs(view: View, reference: str | None, resamples: int, generator: np.random.Generator) -> pd.DataFrame:
    """Returns one row per pair of settings, with both tests, Holm's p and a verdict.

    `difference` is the mean of `setting` minus that of `less`; `improvement` is the probability that a run of `setting`
    is better. The better setting comes first, unless the view contains the reference, which is then always `less`.
    """
    pairs: list[tuple[str, str]] = list(itertools.combinations(view.variants, 2))
    if reference in view.variants:
        pairs = [(variant, str(reference)) for variant in view.variants if variant != reference]
    rows, tests = [], []
    for a, b in pairs:
        x, y = view.strata(a), view.strata(b)
        gain = view.sign * (st.mean(x) - st.mean(y))
        if reference not in view.variants and gain < 0:
            a, b, x, y, gain = b, a, y, x, -gain
        both = [*x, *y] if view.sign > 0 else [*y, *x]
        share = float(st.improvements(*(values[None] for values in both))[0])
        interval = st.bootstrap(both, st.improvements, resamples, generator)
        tests.append(st.difference(view.paired(a, b), generator))
        rows.append({"setting": a, "less": b} | _test_cells(tests[-1], len(pairs)) | {"improvement": share})
        rows[-1] |= ends("improvement_", interval) | {"better": gain > 0}
    table = pd.DataFrame(rows)
    if not pairs:
        return table
    table["p_holm"] = st.holm([test.p(len(pairs)) for test in tests])
    table["significant"] = table["p_holm"] < st.SIGNIFICANT
    table["verdict"] = [_verdict(row, test) for row, test in zip(table.to_dict("records"), tests, strict=True)]
    return table


def _test_cells(test: st.Difference, rows: int) -> dict[str, object]:
    deciding = "both tests" if test.flips_decide(rows) else "Student alone"
    cells = {"difference": test.mean, **ends("", test.interval), "pairs": test.pairs, "deviation": test.deviation}
    cells |= {"p_student": test.p_student, "p_sign_flips": test.p_flips, "p_least": test.p_least}
    return cells | {"holm_of": "sign flips" if test.constant else deciding, "varies": test.varies}


def _verdict(pair: Mapping[str, object], test: st.Difference) -> str:
    if not test.pairs:
        return "no seed in common"
    if not test.varies:
        return "one seed: not tested"
    if pair["significant"]:
        words = "better" if pair["better"] else "worse"
        return words if pair["holm_of"] != "Student alone" else f"{words}, if differences are normal"
    if test.constant:
        return "equal in every pair" if test.mean == 0 else "same difference in every pair"
    return NOT_SIGNIFICANT


def image_table(table: RunTable, against: str, margin: float) -> pd.DataFrame:
    """Returns one row per run that has a predictions.csv: its image AUROC with the interval over test images, and its
    difference to the run of the setting `against` with the same data and seed (DeLong's test, Holm's p).
    """
    rows = []
    keys = table.labelled[["data", "variant", "seed"]].itertuples(index=False, name=None)
    by_run = {key: read for key, run in zip(keys, table.runs, strict=True) if (read := _predictions(run)) is not None}
    for (data, variant, seed), predictions in by_run.items():
        nok, scores = predictions["label"].to_numpy() == 1, predictions["score"].to_numpy()
        auroc = stats.mannwhitneyu(scores[nok], scores[~nok]).statistic / (nok.sum() * (~nok).sum())
        row = {"data": data, "setting": variant, "seed": seed, "auroc": auroc}
        row |= ends("", st.auroc_interval(nok, scores))
        other = by_run.get((data, against, seed))
        if variant != against and other is not None and predictions.index.equals(other.index):
            difference, interval, p = st.delong(nok, scores, other["score"].to_numpy())
            row |= {"difference": difference, **ends("difference_", interval), "p_holm": p}
        rows.append(row)
    images = pd.DataFrame(rows, columns=IMAGE_COLUMNS)
    images["p_holm"] = st.holm(images["p_holm"])
    images["verdict"] = [_image_verdict(row, margin) for row in images.itertuples()]
    return images


def _predictions(run: Run) -> pd.DataFrame | None:
    """Returns a run's predictions by image; None without at least two images of each class."""
    predictions = pd.DataFrame(RunFolder(run.folder).predictions(), columns=["image", "label", "score"])
    counts = predictions["label"].value_counts()
    return predictions.set_index("image").sort_index() if len(counts) > 1 and counts.min() > 1 else None


def _image_verdict(row: Any, margin: float) -> str:
    if math.isnan(row.difference):
        return ""
    words = ("better" if row.difference > 0 else "worse") if row.p_holm < st.SIGNIFICANT else NOT_SIGNIFICANT
    if -margin < row.difference_low and row.difference_high < margin:  # two one-sided tests
        return "practically equal" if words == NOT_SIGNIFICANT else f"{words}, practically equal"
    return words
