"""A study as the page shows it: rows of tables, their graphics and their sort keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from anomalib_lite.comparison.commands import command
from anomalib_lite.comparison.compare import Comparison, Study
from anomalib_lite.comparison.effects import Effect
from anomalib_lite.comparison.figures import price_figure
from anomalib_lite.comparison.findings import findings, visible
from anomalib_lite.comparison.forest import Axis, Bar, axis_of, bar
from anomalib_lite.comparison.pairs import Pair
from anomalib_lite.comparison.pareto import priced
from anomalib_lite.comparison.summaries import Summary
from anomalib_lite.comparison.words import digits, interval, probability, value
from anomalib_lite.report import ink

SEEDS = (3, 5, 10, 20)  # for which the visible difference is told
Cell = tuple[str, float | str | None]  # text, perhaps of two lines, and sort key


@dataclass(frozen=True)
class Row:
    """`marked`: the best setting, or a difference beyond chance. `key`: the setting(s), for filters."""

    head: list[str]
    bar: Bar | None
    cells: list[Cell]
    marked: bool = False
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """One study: what its part of the page needs."""

    view: int
    metric: int
    sentences: list[str]
    commands: list[tuple[str, str]]
    settings: tuple[Axis, list[Row]]
    many: bool  # interquartile means are shown
    effects: tuple[Axis, list[Row]]
    pairs: tuple[Axis, list[Row]]
    seeds: list[tuple[int, str]]
    prices: Markup | None


def show(found: Comparison, study: Study, view: int, metric: int) -> Shown:
    needed = [(n, visible(study, n)) for n in SEEDS]
    return Shown(
        view,
        metric,
        findings(study),
        best_commands(found, study),
        _settings(found, study),
        any(s.iqm is not None for s in study.summaries),
        _effects(study),
        _pairs(study.pairs, study.metric),
        [(n, value(least, digits(study.metric))) for n, least in needed if least is not None],
        Markup(ink.to_svg(price_figure(study))) if priced(study.prices) else None,
    )


def best_commands(found: Comparison, study: Study) -> list[tuple[str, str]]:
    """(data set, command) of the best setting."""
    rows = found.design.rows
    commands = []
    for block in study.view.blocks:
        own = rows.index[(rows["data"] == block) & (rows["variant"] == study.best.variant)]
        if len(own):
            commands.append((block, command(found.table.runs[own[0]], found.design.factors)))
    return commands


def _settings(found: Comparison, study: Study) -> tuple[Axis, list[Row]]:
    ordered = sorted(study.summaries, key=lambda s: (not s.best, -s.mean))
    dots = {s.variant: _by_seed(s) for s in ordered}
    inner = [end for s in ordered for end in (s.drawn.low, s.drawn.high)]
    axis = axis_of([*(d for values in dots.values() for d in values), *inner, *(s.mean for s in ordered)])
    places = digits(study.metric)
    many = any(s.iqm is not None for s in ordered)
    rows = []
    for s in ordered:
        head = [found.design.level(s.variant, f) for f in found.design.factors] or [s.variant]
        cells: list[Cell] = [
            (value(s.mean, places), s.mean),
            (value(s.deviation, places), _key(s.deviation)),
            (interval(s.drawn, places), _key(s.drawn.low)),
            (interval(s.student, places), _key(s.student.low)),
        ]
        if many:
            middle = f"{value(s.iqm, places)} ({interval(s.iqm_interval, places)})" if s.iqm is not None else "–"
            cells.append((middle, s.iqm))
        cells.append((str(s.runs), s.runs))
        rows.append(Row(head, bar(axis, s.mean, dots[s.variant], s.drawn, s.student), cells, s.best))
    return axis, rows


def _by_seed(summary: Summary) -> list[float]:
    """For each seed that all data sets have, the mean over them."""
    series = list(summary.values.values())
    shared = sorted(set.intersection(*(set(one) for one in series)))
    return [sum(one[seed] for one in series) / len(series) for seed in shared]


def _effects(study: Study) -> tuple[Axis, list[Row]]:
    effects = [effect for own in study.effects.values() for effect in own]
    known = [e.found for e in effects if e.found is not None]
    axis = axis_of([0.0, *(d.mean for d in known)], margin=0.8)
    return axis, [_effect(axis, effect, digits(study.metric)) for effect in effects]


def _effect(axis: Axis, effect: Effect, places: int) -> Row:
    mean: Cell = (value(effect.mean, places), _key(effect.mean))
    head, d = [effect.factor, effect.level], effect.found
    if d is None:
        said = "compared with" if effect.level == effect.baseline else "never run beside it"
        return Row(head, None, [mean, (said, None), ("", None), ("", None), ("", None)])
    cells: list[Cell] = [
        mean,
        (value(d.mean, places, signed=True), d.mean),
        (interval(d.interval, places, signed=True), _key(d.interval.low)),
        (probability(effect.p_holm), _key(effect.p_holm)),
        (str(effect.contexts), effect.contexts),
    ]
    return Row(head, bar(axis, d.mean, outer=d.interval, zero=True), cells, effect.p_holm < 0.05)


def _pairs(pairs: Sequence[Pair], metric: str) -> tuple[Axis, list[Row]]:
    ordered = sorted(pairs, key=_by_p)
    axis = axis_of([0.0, *(p.found.mean for p in ordered if p.found)], margin=0.5)
    return axis, [_pair(axis, pair, digits(metric)) for pair in ordered]


def _tests(pair: Pair) -> str:
    if not pair.flips_decide:
        return "Student alone"
    return "sign flips" if pair.found and pair.found.constant else "both tests"


def _by_p(pair: Pair) -> tuple[bool, float, float]:
    raw = pair.found.p_student if pair.found else math.nan
    return math.isnan(pair.p_holm), pair.p_holm, 1.0 if math.isnan(raw) else raw


def _pair(axis: Axis, pair: Pair, places: int) -> Row:
    improvement = f"{pair.improvement:.2f}"
    if pair.improvement_interval.known:
        improvement += f"\n{interval(pair.improvement_interval, 2)}"
    last: list[Cell] = [(improvement, pair.improvement), (pair.verdict, pair.verdict)]
    head, d = [pair.a, pair.b], pair.found
    if d is None:
        return Row(head, None, [("–", None)] * 4 + last, keys=(pair.a, pair.b))
    cells: list[Cell] = [
        (f"{value(d.mean, places, signed=True)}\n{interval(d.interval, places, signed=True)}", d.mean),
        (probability(d.p_student), _key(d.p_student)),
        (f"{probability(d.p_flips)}\nleast {probability(d.p_least)}", _key(d.p_flips)),
        (f"{probability(pair.p_holm)}\n{_tests(pair)}", _key(pair.p_holm)),
        *last,
    ]
    return Row(head, bar(axis, d.mean, outer=d.interval, zero=True), cells, pair.significant, (pair.a, pair.b))


def _key(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
