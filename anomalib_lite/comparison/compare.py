"""A whole comparison: every data set and metric studied, and what is missing for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from anomalib_lite.comparison.design import Design, View, find_reference, make_design, views
from anomalib_lite.comparison.effects import Effect, marginal_effects
from anomalib_lite.comparison.interactions import Interaction, interactions
from anomalib_lite.comparison.missing import Gap, find_gaps
from anomalib_lite.comparison.pairs import Pair, compare_pairs
from anomalib_lite.comparison.pareto import Price, prices
from anomalib_lite.comparison.summaries import Summary, summarise
from anomalib_lite.comparison.table import METRICS, Table
from anomalib_lite.errors import UserError


@dataclass(frozen=True)
class Settings:
    """metrics: by default image AUROC, pixel AUROC and AUPRO. reference: a setting that all others are held against."""

    metrics: tuple[str, ...] | None = None
    reference: str | None = None
    resamples: int = 5000
    confidence: float = 0.95
    seed: int = 0  # of the bootstrap


@dataclass(frozen=True)
class Study:
    """One metric on one view of the data."""

    view: View
    metric: str
    summaries: list[Summary]
    pairs: list[Pair]
    effects: dict[str, list[Effect]]
    interactions: list[Interaction]
    prices: list[Price]

    @property
    def best(self) -> Summary:
        return next(summary for summary in self.summaries if summary.best)


@dataclass(frozen=True)
class Comparison:
    table: Table
    design: Design
    settings: Settings
    reference: str | None
    metrics: list[str]
    studies: list[Study]
    gaps: list[Gap]

    @property
    def views(self) -> list[View]:
        return list({study.view.title: study.view for study in self.studies}.values())

    def of(self, view: View) -> dict[str, Study]:
        """Metric -> study."""
        return {study.metric: study for study in self.studies if study.view.title == view.title}


def compare(table: Table, settings: Settings) -> Comparison:
    """Errors: UserError for a metric that no run has, or a reference that names no setting."""
    design = make_design(table)
    reference = None if settings.reference is None else find_reference(design, settings.reference)
    metrics = _metrics(table, settings.metrics)
    jobs = [(metric, view) for metric in metrics for view in views(design, design.series(metric))]
    studies = [_study(design, v, m, reference, settings) for m, v in tqdm(jobs, "compare", delay=2, leave=False)]
    return Comparison(table, design, settings, reference, metrics, studies, find_gaps(design))


def _study(design: Design, view: View, metric: str, reference: str | None, settings: Settings) -> Study:
    series = design.series(metric)
    generator = np.random.default_rng(settings.seed)
    drawn = (settings.resamples, generator, settings.confidence)
    summaries = summarise(series, view, metric, *drawn)
    baselines = {} if reference is None else design.variants[reference]
    return Study(
        view,
        metric,
        summaries,
        compare_pairs(series, view, metric, reference, *drawn),
        marginal_effects(design, view, metric, baselines, generator, settings.confidence),
        interactions(design, view, metric, settings.confidence),
        prices(design, view, metric, summaries),
    )


def _metrics(table: Table, asked: Sequence[str] | None) -> list[str]:
    measured = [name for name in table.rows.select_dtypes("number").columns if name != "seed"]
    measured = [name for name in measured if table.rows[name].notna().any()]
    if asked is None:
        return [name for name in METRICS if name in measured] or table.metrics[:1]
    if unknown := [name for name in asked if name not in measured]:
        raise UserError(f"metrics: no run measured {', '.join(unknown)}. There are: {', '.join(measured)}.")
    return list(asked)
