"""Treats runs as a designed experiment of settings, data sets and seeds, and analyses one metric of them after another:
means, pairs, effects of factors and their interactions, quality against cost, and intervals over test images.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

from anomalib_lite.comparison import statistics as st
from anomalib_lite.comparison.runs import COSTS, Run
from anomalib_lite.comparison.statistics import Interval, Ranks, Strata
from anomalib_lite.comparison.table import ABSENT, DATA, RunTable, find_reference, levels
from anomalib_lite.errors import UserError
from anomalib_lite.runs.folder import RunFolder

METRICS = ("image_auroc", "pixel_auroc", "aupro")  # shown by default
LOWER_IS_BETTER = ("image_false_alarm_rate", *COSTS)
MANY = 10  # fewest runs of a setting for which the interquartile mean is shown
RESAMPLES = 5000  # of the bootstrap
MARGIN = 0.01  # of image AUROC: a difference whose interval lies within it is practically zero
PAIRS = (
    "setting", "less", "difference", "low", "high", "pairs", "deviation", "p_student", "p_sign_flips", "p_least",
    "holm_of", "varies", "improvement", "improvement_low", "improvement_high", "better",
)  # fmt: skip
EFFECTS = ("factor", "level", "baseline", "mean", "difference", "low", "high", "contexts", "p_student")
IMAGES = (
    "data", "setting", "seed", "run", "auroc", "low", "high",
    "difference", "difference_low", "difference_high", "p_holm",
)  # fmt: skip
NOT_SIGNIFICANT, OTHER_IMAGES = "not significant", "different test images"  # verdicts


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
    def values(self) -> pd.DataFrame:
        """(setting, data) x seed: the metric, averaged over runs that differ only in factors outside the view."""
        return self.rows.groupby(["variant", DATA, "seed"])[self.metric].mean().unstack("seed")

    def strata(self, variant: str, less: str | None = None) -> Strata:
        """Returns a setting's values, one array (seeds,) per data set; with `less` the differences to that setting, of
        the shared seeds and the data sets that have any.
        """
        values = self.values.loc[variant].to_numpy()
        if less is not None:
            values = values - self.values.loc[less].to_numpy()
        return [row[~np.isnan(row)] for row in values if not np.isnan(row).all()]

    @cached_property
    def tested(self) -> pd.DataFrame:
        """(setting, data) x seed: the number of test images."""
        return self.rows.astype({"tested": float}).groupby(["variant", DATA, "seed"])["tested"].mean().unstack("seed")

    def same_images(self, variant: str, less: str) -> bool:
        """Whether the runs of both settings with the same data and seed were measured on as many test images."""
        gaps = self.tested.loc[variant].to_numpy() - self.tested.loc[less].to_numpy()
        return self.metric in COSTS or not np.nan_to_num(gaps).any()


@dataclass(frozen=True)
class Study:
    """The analysis of one view."""

    view: View
    summaries: pd.DataFrame  # see `summarise`
    pairs: pd.DataFrame  # see `compare_pairs`
    effects: pd.DataFrame  # see `marginal_effects`
    interactions: list[pd.DataFrame]  # one table per pair of factors

    @property
    def metric(self) -> str:
        return self.view.metric

    @property
    def ranked(self) -> pd.DataFrame:
        """The summaries, the best setting first."""
        return self.summaries.sort_values(["best", "mean"], ascending=[False, self.view.sign < 0])

    @property
    def best(self) -> pd.Series:
        return self.ranked.iloc[0]

    @property
    def ranks(self) -> Ranks | None:
        """Mean ranks of the settings; None with too few data sets or settings."""
        means = [[x.mean() for x in self.view.strata(variant)] for variant in self.view.variants]
        return st.rank(self.view.variants, self.view.sign * np.transpose(means))


@dataclass(frozen=True)
class Comparison:
    """The studies of all views and metrics."""

    table: RunTable
    reference: str | None
    metrics: list[str]
    studies: list[Study]
    images: pd.DataFrame  # see `image_table`
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
    """Compares the settings of a table of runs: all pairs, or all with the reference (see `find_reference`).

    metrics: by default image AUROC, pixel AUROC and AUPRO. resamples: of the bootstrap. margin: of image AUROC, within
    which a difference is practically zero. Raises UserError for a metric that no run has, or a wrong reference.
    """
    reference = None if reference is None else find_reference(table, reference)
    baselines = {} if reference is None else table.variants[reference]
    metrics, studies = _metrics(table, metrics), []
    jobs = [view for metric in metrics for view in views(table, metric)]
    for view in tqdm(jobs, "compare", delay=2, leave=False):
        generator = np.random.default_rng(0)
        summaries = summarise(view, resamples, generator)
        pairs = compare_pairs(view, reference, resamples, generator)
        effects = marginal_effects(view, baselines, generator)
        studies.append(Study(view, summaries, pairs, effects, interactions(view)))
    against = reference or next((s.best.setting for s in studies if s.metric == "image_auroc"), studies[0].best.setting)
    return Comparison(table, reference, metrics, studies, image_table(table, against, margin), resamples, margin)


def _metrics(table: RunTable, names: Sequence[str] | None) -> list[str]:
    measured = table.rows.drop(columns=["seed", *table.factors]).select_dtypes("number").dropna(axis=1, how="all")
    if names is None:
        return [m for m in METRICS if m in measured] or [m for m in measured if m not in COSTS][:1]
    if unknown := [name for name in names if name not in measured]:
        raise UserError(f"metrics: no run measured {', '.join(unknown)}. There are: {', '.join(measured)}.")
    return list(names)


def views(table: RunTable, metric: str) -> list[View]:
    """Returns a view of all data sets together, if some setting was run on all of them, and one of each data set."""
    rows, result = table.labelled, []
    measured = rows.dropna(subset=[metric])
    blocks = sorted(measured[DATA].unique())
    title = f"all {len(blocks)} data sets"
    if blocks != table.blocks:  # the names keep apart metrics that were measured on different data sets
        title = f"{len(blocks)} of {len(table.blocks)} data sets ({', '.join(blocks)})"
    together = {title: blocks} if len(blocks) > 1 else {}
    for title, data in (together | {block: [block] for block in blocks}).items():
        run_on = measured[measured[DATA].isin(data)].groupby("variant")[DATA].nunique()
        if variants := tuple(v for v in table.variants if run_on.get(v) == len(data)):
            own = rows[rows[DATA].isin(data) & rows["variant"].isin(variants)]
            result.append(View(title, metric, tuple(data), variants, tuple(table.factors), own))
    return result


def by_block(values: pd.Series) -> Strata:
    """Averages over everything but data and seed; returns one array (seeds,) per data set."""
    seeds = values.groupby([DATA, "seed"]).mean()
    return [group.to_numpy() for _, group in seeds.groupby(DATA)]


def ends(name: str, interval: Interval) -> dict[str, float]:
    """Returns the bounds of an interval as two table cells."""
    return {f"{name}low": interval.low, f"{name}high": interval.high}


def summarise(view: View, resamples: int, generator: np.random.Generator) -> pd.DataFrame:
    """Returns one row per setting: mean, deviation between seeds, bootstrap and Student's interval, and with many runs
    the interquartile mean. `seeds` is the smallest number of seeds on a data set.

    `best` marks the best mean among the settings with at least two seeds, if there are any, because a single seed may
    be lucky. Costs: milliseconds per image (median over runs, because other load only increases them) and megabytes of
    the model (mean); `fastest` and `smallest` mark the Pareto fronts of quality and either cost.
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
    quality = view.sign * table["mean"].to_numpy()
    table["best"] = table.index == max(table.index, key=lambda k: (table["seeds"][k] > 1, quality[k]))
    costs = view.rows.groupby(["variant", DATA]).agg({"ms_per_image": "median", "model_mb": "mean"})
    table = table.join(costs.groupby("variant").mean(), on="setting")
    for cost, name in (("ms_per_image", "fastest"), ("model_mb", "smallest")):
        table[name] = front(np.column_stack([quality, -table[cost].to_numpy(float)]))
    return table


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
    is better. The better mean comes first, unless the view contains the reference, which is then always `less`.
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
        row = {"setting": a, "less": b, "improvement": float(st.improvements(*(values[None] for values in both))[0])}
        row |= ends("improvement_", st.bootstrap(both, st.improvements, resamples, generator))
        tests.append(test := st.difference(view.strata(a, less=b), generator))
        better = (view.sign * test.difference if test.pairs else gain) > 0  # at equal seeds, as tested
        rows.append(row | vars(test) | {"holm_of": test.decided_by(len(pairs)), "better": better})
    table = pd.DataFrame(rows, columns=list(PAIRS))
    table["p_holm"] = st.holm([test.p(len(pairs)) for test in tests])
    alike = np.array([view.same_images(a, b) for a, b in zip(table["setting"], table["less"], strict=True)], bool)
    table["significant"] = (table["p_holm"] < st.SIGNIFICANT) & alike
    verdicts = [_verdict(row, test) for row, test in zip(table.to_dict("records"), tests, strict=True)]
    table["verdict"] = np.where(alike, verdicts, OTHER_IMAGES)
    return table


def _verdict(pair: Mapping[Any, Any], test: st.Difference) -> str:
    if not test.pairs:
        return "no seed in common"
    if not test.varies:
        return "one seed: not tested"
    if pair["significant"]:
        words = "better" if pair["better"] else "worse"
        return words if pair["holm_of"] != st.STUDENT else f"{words}, if differences are normal"
    if test.constant:
        return "equal in every pair" if test.difference == 0 else "same difference in every pair"
    return NOT_SIGNIFICANT


def marginal_effects(view: View, baselines: Mapping[str, str], generator: np.random.Generator) -> pd.DataFrame:
    """Compares each level of each factor with the factor's baseline level, all else being equal.

    Levels are compared at the same data, seed and levels of the other factors. The differences of one seed are averaged
    before the test, so that seeds remain the replications. baselines: factor -> level; by default the plain level.

    Returns one row per level, the factor with the largest effect first. `mean`: over contexts that were run with all
    levels, NaN without any. `difference`: to the `baseline`, NaN for the baseline itself and without a context that was
    run with both. `contexts`: number of comparisons.
    """
    rows, tests = [], []
    for factor in view.factors:
        present = view.rows[view.rows[factor] != ABSENT].dropna(subset=[view.metric])
        others = [DATA, "seed", *(f for f in view.factors if f != factor)]
        contexts = present.groupby([*others, factor])[view.metric].mean().unstack(factor)
        if contexts.shape[1] < 2:
            continue
        ordered = levels(list(contexts.columns))
        baseline = baselines[factor] if baselines.get(factor) in ordered else ordered[0]
        means = contexts.dropna().groupby(DATA).mean().mean()  # no rows: all NaN
        for level in ordered:
            gains = (contexts[level] - contexts[baseline]).dropna()
            tests.append(st.difference(by_block(gains) if level != baseline else [], generator))
            row = {"factor": factor, "level": level, "baseline": baseline, "mean": means[level]}
            rows.append(row | vars(tests[-1]) | {"contexts": len(gains)})
    count = sum(test.pairs > 0 for test in tests)
    table = pd.DataFrame(rows, columns=list(EFFECTS))
    table["p_holm"] = st.holm([test.p(count) for test in tests])
    reach = table.groupby("factor")["difference"].agg(lambda d: max(0.0, d.max()) - min(0.0, d.min()))
    return table.sort_values("factor", key=lambda f: -f.map(reach).fillna(0.0), kind="stable", ignore_index=True)


def interactions(view: View) -> list[pd.DataFrame]:
    """Returns one table of means per pair of factors; the data are a factor if the view has several data sets.

    The columns are the two factors, mean, low and high (Student's interval over seeds) and runs. `attrs["whole"]`: all
    contexts were run with each combination of levels. Incomplete contexts are left out, unless all are incomplete.
    """
    names = [*view.factors, *([DATA] if len(view.blocks) > 1 else [])]
    rows, tables = view.rows.dropna(subset=[view.metric]), []
    for pair in map(list, itertools.combinations(names, 2)):
        present = rows[(rows[pair] != ABSENT).all(axis=1)]
        if present[pair].nunique().min() < 2:
            continue
        by_cell, others = present.groupby(pair), [present[f] for f in (*view.factors, DATA) if f not in pair]
        contexts = by_cell.ngroup().groupby(others or np.zeros(len(present)))
        complete = contexts.transform("nunique") == by_cell.ngroups
        cells = []
        for chosen, group in (present[complete] if complete.any() else present).groupby(pair):
            strata = by_block(group.set_index([DATA, "seed"])[view.metric])
            row = dict(zip(pair, chosen, strict=True)) | {"mean": st.mean(strata)}
            cells.append(row | ends("", st.student(strata)) | {"runs": len(group)})
        table = pd.DataFrame(cells)
        for name in pair:
            table[name] = pd.Categorical(table[name], levels(list(table[name])))
        table = table.sort_values(pair, ignore_index=True)
        table.attrs["whole"] = bool(complete.all())
        tables.append(table)
    return tables


def image_table(table: RunTable, against: str, margin: float) -> pd.DataFrame:
    """Returns one row per run that has a predictions.csv: its image AUROC with the interval over test images, and its
    difference to the run of the setting `against` with the same data and seed (DeLong's test, Holm's p), if both are
    the only ones: several runs share these where a factor is averaged over.
    """
    rows, by_key = [], dict[Any, list[tuple[str, pd.DataFrame]]]()
    keys = table.labelled[[DATA, "variant", "seed"]].itertuples(index=False, name=None)
    for key, run in zip(keys, table.runs, strict=True):
        if (read := _predictions(run)) is not None:
            by_key.setdefault(key, []).append((run.name, read))
    for (data, variant, seed), own in by_key.items():
        others = by_key.get((data, against, seed), [])
        for name, predictions in own:
            nok, scores = predictions["label"].to_numpy() == 1, predictions["score"].to_numpy()
            auroc = stats.mannwhitneyu(scores[nok], scores[~nok]).statistic / (nok.sum() * (~nok).sum())
            row = {DATA: data, "setting": variant, "seed": seed, "run": name, "auroc": auroc}
            row |= ends("", st.auroc_interval(nok, scores))
            if variant != against and len(own) == len(others) == 1 and predictions.index.equals(others[0][1].index):
                difference, interval, p = st.delong(nok, scores, others[0][1]["score"].to_numpy())
                row |= {"difference": difference, **ends("difference_", interval), "p_holm": p}
            rows.append(row)
    images = pd.DataFrame(rows, columns=list(IMAGES))
    images["p_holm"] = st.holm(images["p_holm"])
    images["verdict"] = [_image_verdict(row, margin) for row in images.itertuples()]
    return images


def _predictions(run: Run) -> pd.DataFrame | None:
    """Returns a run's predictions by labelled image; None without at least two images of each class."""
    rows = [row for row in RunFolder(run.folder).predictions() if row["label"] is not None]
    predictions = pd.DataFrame(rows, columns=["image", "label", "score"])
    counts = predictions["label"].value_counts()
    return predictions.set_index("image").sort_index() if len(counts) > 1 and counts.min() > 1 else None


def _image_verdict(row: Any, margin: float) -> str:
    if math.isnan(row.difference):
        return ""
    words = ("better" if row.difference > 0 else "worse") if row.p_holm < st.SIGNIFICANT else NOT_SIGNIFICANT
    if -margin < row.difference_low and row.difference_high < margin:  # two one-sided tests
        return "practically equal" if words == NOT_SIGNIFICANT else f"{words}, practically equal"
    return words
