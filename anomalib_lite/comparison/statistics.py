"""Estimates and tests: over seeds, each data set a stratum of its own and of the same weight; and over test images."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

Strata = Sequence[np.ndarray]  # one array (n,) a data set: a value for each seed

SIGNIFICANT = 0.05
ROOM = 4  # the least p of the sign flips must lie this far below what is asked for
EXACT = 14  # pairs up to which all 2^n sign patterns are gone through
DRAWN = 20_000  # sign patterns beyond that
ROUNDING = 1e-12  # relative: sums of the same differences in another order are the same


class Interval(NamedTuple):
    """NaN where it cannot be computed."""

    low: float = math.nan
    high: float = math.nan


class Spread(NamedTuple):
    """Of a mean over strata: its standard error, and the degrees of freedom (Satterthwaite) of that error."""

    mean: float
    error: float
    freedom: float


def mean(strata: Strata) -> float:
    """The mean over the data sets of each one's mean over seeds."""
    return float(np.mean([values.mean() for values in strata]))


def spread(strata: Strata) -> Spread:
    """Variances of the data sets are not taken to be equal (Welch 1947; Satterthwaite 1946). A data set with one seed
    has no variance: error and freedom are then NaN.
    """
    if any(len(values) < 2 for values in strata):
        return Spread(mean(strata), math.nan, math.nan)
    variances = np.array([values.var(ddof=1) / len(values) for values in strata]) / len(strata) ** 2
    freedoms = np.array([len(values) - 1 for values in strata])
    total = float(variances.sum())
    freedom = total**2 / float((variances**2 / freedoms).sum()) if total else float(freedoms.sum())
    return Spread(mean(strata), math.sqrt(total), freedom)


def student(strata: Strata, confidence: float = 0.95) -> Interval:
    """Student's interval of the mean: exact for normal values of one data set, however few."""
    found = spread(strata)
    if math.isnan(found.error):
        return Interval()
    half = float(stats.t.ppf(0.5 + confidence / 2, found.freedom)) * found.error
    return Interval(found.mean - half, found.mean + half)


def within(strata: Strata) -> float:
    """Standard deviation between seeds, pooled over the data sets; NaN where no data set has two seeds."""
    freedom = sum(len(values) - 1 for values in strata)
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in strata)
    return math.sqrt(squares / freedom) if freedom else math.nan


def means(*draws: np.ndarray) -> np.ndarray:
    """The mean over data sets of the means over seeds: arrays (resamples, n) -> (resamples,)."""
    return np.mean([draw.mean(axis=1) for draw in draws], axis=0)


def interquartile_means(*draws: np.ndarray) -> np.ndarray:
    """The mean of the middle half of all data sets' values together: arrays (resamples, n) -> (resamples,)."""
    together = np.sort(np.concatenate(draws, axis=1), axis=1)
    cut = together.shape[1] // 4
    return together[:, cut : together.shape[1] - cut].mean(axis=1)


def improvements(*draws: np.ndarray) -> np.ndarray:
    """How often a run of one setting has a higher value than a run of the other on the same data, a tie counting half:
    the Mann-Whitney U statistic over the number of pairs, its mean over the data sets. The first half of the arrays
    (resamples, n) is the one setting's, the second the other's.
    """
    half = len(draws) // 2
    wins = [
        np.sign(x[:, :, None] - y[:, None]).mean(axis=(1, 2)) for x, y in zip(draws[:half], draws[half:], strict=True)
    ]
    return (np.mean(wins, axis=0) + 1) / 2


def bootstrap(
    strata: Strata,
    statistic: Callable[..., np.ndarray],
    resamples: int,
    generator: np.random.Generator,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval; each stratum's seeds are drawn again with replacement (Agarwal et al. 2021, section 4).
    Unknown where no stratum has two seeds, since nothing could be drawn differently.
    """
    if all(len(values) < 2 for values in strata):
        return Interval()
    draws = [values[generator.integers(0, len(values), (resamples, len(values)))] for values in strata]
    tail = 50 * (1 - confidence)
    return Interval(*map(float, np.percentile(statistic(*draws), [tail, 100 - tail])))


class Difference(NamedTuple):
    """Of two settings. `p_student` is the p of the paired t test, `p_flips` the exact one of the sign-flip test, and
    `p_least` the smallest that so many pairs allow it. `varies` says what the pairs differ in: "seeds", "data sets"
    (one seed each), or "" where there is only one pair.
    """

    mean: float
    interval: Interval
    p_student: float
    p_flips: float
    p_least: float
    pairs: int
    varies: str
    deviation: float  # of the differences between seeds
    constant: bool  # all differences of a data set are the same, so that a t test has nothing to go by

    def flips_decide(self, rows: int) -> bool:
        """Whether the sign flips have a say: they need no normality and no equal spreads, but enough pairs to reach
        significance after a correction for so many rows, and not only just.
        """
        return self.constant or (self.varies != "" and self.p_least <= SIGNIFICANT / (ROOM * rows))

    def p(self, rows: int) -> float:
        """The larger p of both tests where the sign flips decide, else Student's; NaN with one pair."""
        if not self.flips_decide(rows):
            return self.p_student
        return self.p_flips if self.constant else max(self.p_flips, self.p_student)


def difference(strata: Strata, generator: np.random.Generator, confidence: float = 0.95) -> Difference:
    """strata: one array a data set, the differences of its seeds. At least one pair.

    Data sets in which one seed alone is paired say nothing about seeds, and are left out where others have more.
    Where all have one, the data sets are taken as a sample of all such data sets (Demšar 2006, section 3.2).
    """
    several = [values for values in strata if len(values) > 1]
    varies = "seeds" if several else "data sets" if len(strata) > 1 else ""
    used = several or [np.concatenate(strata)]
    found = spread(used)
    p_flips, p_least = sign_flips(used, generator)
    constant = varies != "" and found.error <= ROUNDING * max(abs(found.mean), 1e-300)
    p = math.nan
    if not constant and not math.isnan(found.error):
        p = float(2 * stats.t.sf(abs(found.mean) / found.error, found.freedom))
    deviation = math.sqrt(np.mean([values.var(ddof=1) for values in used])) if varies else math.nan
    interval = Interval() if constant and found.mean else student(used, confidence)
    pairs = sum(len(values) for values in used)
    return Difference(found.mean, interval, p, p_flips, p_least, pairs, varies, deviation, constant)


def sign_flips(strata: Strata, generator: np.random.Generator) -> tuple[float, float]:
    """Two-sided p of the mean difference among those with each sign flipped or not, and the least p possible.

    It assumes only that without an effect each difference is as likely as its negative (Fisher 1935, section 21).
    Exact up to 14 pairs; beyond, by random signs, the observed ones counted among them.
    """
    weighted = np.concatenate([values / (len(values) * len(strata)) for values in strata])
    n = len(weighted)
    signs = _patterns(n) if n <= EXACT else generator.choice((-1, 1), (DRAWN, n))
    reached = np.abs(signs @ weighted) >= abs(weighted.sum()) * (1 - ROUNDING)
    if n <= EXACT:
        return float(reached.mean()), 2.0 / 2**n
    return float((reached.sum() + 1) / (DRAWN + 1)), 1.0 / (DRAWN + 1)


@functools.cache
def _patterns(n: int) -> np.ndarray:
    """All signs of n differences, (2^n, n)."""
    return (1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)).astype(np.float64)


def pairs_needed(rows: int) -> int:
    """The number of pairs from which on the sign flips decide in a table of so many rows."""
    return math.ceil(math.log2(2 * ROOM * rows / SIGNIFICANT))


def holm(p: Sequence[float]) -> np.ndarray:
    """p values corrected for their number (Holm 1979); NaN, a pair without a test, does not count."""
    values = np.asarray(p, dtype=float)
    corrected = np.full(len(values), math.nan)
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN sorts last
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1.0)
    return corrected


def detectable(seeds: int, blocks: int = 1, alpha: float = SIGNIFICANT, power: float = 0.8) -> float:
    """The least effect, in standard deviations of the differences, that a two-sided paired t test finds with this
    probability (Cohen 1988, chapter 2). Infinite with a single seed.
    """
    freedom = blocks * (seeds - 1)
    if freedom < 1:
        return math.inf
    critical, root = stats.t.ppf(1 - alpha / 2, freedom), math.sqrt(blocks * seeds)

    def lacking(effect: float) -> float:
        return float(stats.nct.sf(critical, freedom, effect * root)) - power  # the other tail is below alpha / 2

    return float(optimize.brentq(lacking, 0, 20 * critical / root, xtol=1e-6))


class DeLong(NamedTuple):
    """AUROC of a first run less that of a second one; `p` is two-sided, NaN where both rank all images alike."""

    difference: float
    interval: Interval
    p: float


def auroc_interval(
    nok: np.ndarray,
    scores: np.ndarray,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap over the test images, OK and NOK ones drawn apart. nok: bool (n,), of both kinds."""
    wins = (np.sign(scores[nok][:, None] - scores[~nok][None]) + 1) / 2
    rows, columns = (generator.multinomial(n, np.full(n, 1 / n), resamples) / n for n in wins.shape)
    tail = 50 * (1 - confidence)
    return Interval(*map(float, np.percentile(((rows @ wins) * columns).sum(axis=1), [tail, 100 - tail])))


def delong(nok: np.ndarray, a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> DeLong:
    """Two runs' scores of the same images (DeLong, DeLong and Clarke-Pearson 1988), by ranks (Sun and Xu 2014)."""
    over_ok, over_nok = [], []  # for each NOK image the share of OK ones below it, and the other way round
    for scores in (a, b):
        ranks, of_nok, of_ok = (stats.rankdata(s) for s in (scores, scores[nok], scores[~nok]))
        over_ok.append((ranks[nok] - of_nok) / (~nok).sum())
        over_nok.append(1 - (ranks[~nok] - of_ok) / nok.sum())
    gains, others = over_ok[0] - over_ok[1], over_nok[0] - over_nok[1]
    difference = float(gains.mean())
    error = math.sqrt(gains.var(ddof=1) / len(gains) + others.var(ddof=1) / len(others))
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * error
    p = float(2 * stats.norm.sf(abs(difference) / error)) if error else math.nan
    return DeLong(difference, Interval(difference - half, difference + half), p)


def is_within(low: float, high: float, margin: float) -> bool:
    """Whether an interval says that a difference is too small to matter (two one-sided tests)."""
    return -margin < low and high < margin
