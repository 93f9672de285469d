"""Estimates and tests: over seeds, each data set a stratum of its own and of the same weight; and over test images."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

Strata = Sequence[np.ndarray]  # one array (n,) a data set: a value for each seed

SIGNIFICANT = 0.05
CONFIDENCE = 1 - SIGNIFICANT  # of all intervals
ROOM = 4  # the least p of the sign flips must lie this far below what is asked for
EXACT = 14  # pairs up to which all 2^n sign patterns are gone through
DRAWN = 20_000  # sign patterns beyond that
BLOCKS, SETTINGS = 5, 3  # from which on ranks over data sets say something
EDGE = 1e-9  # of an area, beside 0 and 1, where its variance vanishes
ROUNDING = 1e-12  # relative: sums of the same differences in another order are the same


class Interval(NamedTuple):
    """NaN where it cannot be computed."""

    low: float = math.nan
    high: float = math.nan


def mean(strata: Strata) -> float:
    """The mean over the data sets of each one's mean over seeds."""
    return float(np.mean([values.mean() for values in strata]))


def spread(strata: Strata) -> tuple[float, float]:
    """The standard error of the mean, and its degrees of freedom. Variances of the data sets are not taken to be equal
    (Welch 1947; Satterthwaite 1946). A data set with one seed has no variance: both are then NaN.
    """
    if any(len(values) < 2 for values in strata):
        return math.nan, math.nan
    variances = np.array([values.var(ddof=1) / len(values) for values in strata]) / len(strata) ** 2
    freedoms = np.array([len(values) - 1 for values in strata])
    total = float(variances.sum())
    return math.sqrt(total), total**2 / float((variances**2 / freedoms).sum()) if total else float(freedoms.sum())


def student(strata: Strata) -> Interval:
    """Student's interval of the mean: exact for normal values of one data set, however few."""
    error, freedom = spread(strata)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    return Interval(mean(strata) - half, mean(strata) + half)


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
    pairs = zip(draws[:half], draws[half:], strict=True)
    return (np.mean([np.sign(x[:, :, None] - y[:, None]).mean(axis=(1, 2)) for x, y in pairs], axis=0) + 1) / 2


def bootstrap(
    strata: Strata, statistic: Callable[..., np.ndarray], resamples: int, generator: np.random.Generator
) -> Interval:
    """Percentile interval; each stratum's seeds are drawn again with replacement (Agarwal et al. 2021, section 4).
    Unknown where no stratum has two seeds, since nothing could be drawn differently.
    """
    if all(len(values) < 2 for values in strata):
        return Interval()
    draws = [values[generator.integers(0, len(values), (resamples, len(values)))] for values in strata]
    tail = 50 * (1 - CONFIDENCE)
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


UNTESTED = Difference(math.nan, Interval(), math.nan, math.nan, math.nan, 0, "", math.nan, False)


def difference(strata: Strata, generator: np.random.Generator) -> Difference:
    """strata: one array a data set, the differences of its seeds; without any nothing is known.

    Data sets in which one seed alone is paired say nothing about seeds, and are left out where others have more.
    Where all have one, the data sets are taken as a sample of all such data sets (Demšar 2006, section 3.2).
    """
    if not strata:
        return UNTESTED
    several = [values for values in strata if len(values) > 1]
    varies = "seeds" if several else "data sets" if len(strata) > 1 else ""
    used = several or [np.concatenate(strata)]
    middle, (error, freedom) = mean(used), spread(used)
    p_flips, p_least = sign_flips(used, generator)
    constant = varies != "" and error <= ROUNDING * max(abs(middle), 1e-300)
    p = math.nan if constant else float(2 * stats.t.sf(abs(middle) / error, freedom))
    deviation = math.sqrt(np.mean([values.var(ddof=1) for values in used])) if varies else math.nan
    interval = Interval() if constant and middle else student(used)
    return Difference(middle, interval, p, p_flips, p_least, sum(map(len, used)), varies, deviation, constant)


def sign_flips(strata: Strata, generator: np.random.Generator) -> tuple[float, float]:
    """Two-sided p of the mean difference among those with each sign flipped or not, and the least p possible.

    It assumes only that without an effect each difference is as likely as its negative (Fisher 1935, section 21).
    Exact up to 14 pairs; beyond, by random signs, the observed ones counted among them.
    """
    weighted = np.concatenate([values / (len(values) * len(strata)) for values in strata])
    n, bar = len(weighted), abs(weighted.sum()) * (1 - ROUNDING)
    if n <= EXACT:
        return float((np.abs(_patterns(n) @ weighted) >= bar).mean()), 2.0 / 2**n
    reached = np.abs(generator.choice((-1, 1), (DRAWN, n)) @ weighted) >= bar
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


def auroc_interval(nok: np.ndarray, scores: np.ndarray) -> Interval:
    """All areas that those found could be drawn from, by their variance at the true area (Newcombe, "Confidence
    intervals for an effect size measure based on the Mann-Whitney statistic", Statistics in Medicine 2006, part 2,
    method 5). Unlike percentiles of resampled images, it has a width where none is confused. nok: bool (n,), of both
    kinds.
    """
    ones, zeros = int(nok.sum()), int((~nok).sum())
    found = float(stats.mannwhitneyu(scores[nok], scores[~nok]).statistic) / (ones * zeros)
    z, more = stats.norm.ppf(0.5 + CONFIDENCE / 2), (ones + zeros) / 2 - 1

    def beyond(area: float) -> float:
        spread = 1 + more * (1 - area) / (2 - area) + more * area / (1 + area)
        return float((area - found) ** 2 - z**2 * area * (1 - area) / (ones * zeros) * spread)

    low = optimize.brentq(beyond, EDGE, min(found, 1 - EDGE)) if found else 0.0
    return Interval(low, optimize.brentq(beyond, max(found, EDGE), 1 - EDGE) if found < 1 else 1.0)


def areas(nok: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC of two runs with the same images, (2,), and their covariance, (2, 2) (DeLong, DeLong and Clarke-Pearson
    1988, by ranks: Sun and Xu 2014). nok: bool (n,), at least two of both kinds.
    """
    over_ok, over_nok = [], []  # for each NOK image the share of OK ones below it, and the other way round
    for scores in (a, b):
        ranks, of_nok, of_ok = (stats.rankdata(s) for s in (scores, scores[nok], scores[~nok]))
        over_ok.append((ranks[nok] - of_nok) / (~nok).sum())
        over_nok.append(1 - (ranks[~nok] - of_ok) / nok.sum())
    return np.mean(over_ok, axis=1), np.cov(over_ok) / nok.sum() + np.cov(over_nok) / (~nok).sum()


def delong(nok: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, Interval, float]:
    """AUROC of a first run less that of a second one with the same images, its interval, and DeLong's two-sided p, NaN
    where both rank all images alike.

    The interval joins those of both areas, by how much these go together (Zou, "Toward using confidence intervals to
    compare correlations", Psychological Methods 2007): DeLong's own has no width where neither run confuses an image.
    """
    found, covariance = areas(nok, a, b)
    difference, error = float(found[0] - found[1]), math.sqrt(max(0.0, covariance.trace() - 2 * covariance[0, 1]))
    p = float(2 * stats.norm.sf(abs(difference) / error)) if error > EDGE else math.nan
    spread = math.sqrt(covariance[0, 0] * covariance[1, 1])
    together = covariance[0, 1] / spread if spread else 0.0
    one, other = (auroc_interval(nok, scores) for scores in (a, b))

    def reach(first: float, second: float) -> float:
        return math.sqrt(max(0.0, first**2 - 2 * together * first * second + second**2))

    low = difference - reach(found[0] - one.low, other.high - found[1])
    return difference, Interval(low, difference + reach(one.high - found[0], found[1] - other.low)), p


@dataclass(frozen=True)
class Ranks:
    """Of settings over data sets, the best first. `mean`: ranks from 1, ties share theirs; those that differ by less
    than `critical` are not told apart. `p`: of Friedman's test that all are alike. `blocks`: number of data sets.
    """

    settings: tuple[str, ...]
    mean: tuple[float, ...]
    critical: float
    p: float
    blocks: int

    @property
    def alike(self) -> list[tuple[int, int]]:
        """The longest runs of settings, first and last place, whose mean ranks differ by less than `critical`."""
        reach = [max(k for k in range(len(self.mean)) if self.mean[k] - r <= self.critical) for r in self.mean]
        runs = [(first, last) for first, last in enumerate(reach) if last > first]
        return [run for run in runs if not any(o[0] <= run[0] and run[1] <= o[1] and o != run for o in runs)]

    def in_words(self) -> str:
        first = ", ".join(f"{name} ({rank:.2f})" for name, rank in zip(self.settings[:3], self.mean, strict=False))
        return (
            f"Mean ranks over {self.blocks} data sets: {first}. Friedman's p is {self.p:.2g}; mean ranks less than "
            f"{self.critical:.2f} apart are not told apart (Nemenyi)."
        )


def rank(settings: Sequence[str], values: np.ndarray) -> Ranks | None:
    """Friedman's test and Nemenyi's critical difference (Demšar, "Statistical Comparisons of Classifiers over Multiple
    Data Sets", JMLR 2006, section 3.2.2).

    values: (data sets, settings), more being better. None for fewer than 5 data sets or 3 settings.
    """
    blocks, count = values.shape
    if blocks < BLOCKS or count < SETTINGS:
        return None
    means = stats.rankdata(-values, axis=1).mean(axis=0)
    order = np.argsort(means, kind="stable")
    q = float(stats.studentized_range.ppf(1 - SIGNIFICANT, count, math.inf)) / math.sqrt(2)
    p = 1.0 if np.ptp(means) == 0 else float(stats.friedmanchisquare(*values.T).pvalue)
    critical = q * math.sqrt(count * (count + 1) / (6 * blocks))
    return Ranks(tuple(settings[k] for k in order), tuple(means[order].tolist()), critical, p, blocks)
