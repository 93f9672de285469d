"""Estimates and tests over seeds, with data sets as strata of equal weight, and over test images."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

Strata = Sequence[np.ndarray]  # one array (n,) per data set, with one value per seed

SIGNIFICANT = 0.05
CONFIDENCE = 1 - SIGNIFICANT  # of all intervals
POWER = 0.8  # of the detectable effect
ROOM = 4  # the smallest p that sign flips can reach must be this many times smaller than the required p
EXACT = 14  # pairs up to which all 2^n sign patterns are enumerated
DRAWN = 20_000  # sign patterns drawn for more pairs
BLOCKS, SETTINGS = 5, 3  # fewest data sets and settings for which ranks are computed
EDGE = 1e-9  # distance of an AUROC from 0 and 1, where its variance vanishes
ROUNDING = 1e-12  # relative tolerance for sums of the same differences in another order
BOTH, FLIPS, STUDENT = "both tests", "sign flips", "Student alone"  # what decides about a difference


class Interval(NamedTuple):
    """A confidence interval; NaN if it cannot be computed."""

    low: float = math.nan
    high: float = math.nan


def mean(strata: Strata) -> float:
    """Averages over seeds, then over data sets."""
    return float(np.mean([values.mean() for values in strata]))


def spread(strata: Strata) -> tuple[float, float]:
    """Returns the standard error of the mean and its degrees of freedom, without assuming equal variances of the data
    sets (Welch 1947; Satterthwaite 1946). Both are NaN if a data set has only one seed.
    """
    if any(len(values) < 2 for values in strata):
        return math.nan, math.nan
    variances = np.array([values.var(ddof=1) / len(values) for values in strata]) / len(strata) ** 2
    freedoms = np.array([len(values) - 1 for values in strata])
    total = float(variances.sum())
    return math.sqrt(total), total**2 / float((variances**2 / freedoms).sum()) if total else float(freedoms.sum())


def student(strata: Strata) -> Interval:
    """Returns Student's interval of the mean, which is exact for normal values of one data set."""
    error, freedom = spread(strata)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    return Interval(mean(strata) - half, mean(strata) + half)


def within(strata: Strata) -> float:
    """Returns the standard deviation between seeds, pooled over data sets; NaN if no data set has two seeds."""
    freedom = sum(len(values) - 1 for values in strata)
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in strata)
    return math.sqrt(squares / freedom) if freedom else math.nan


def means(*draws: np.ndarray) -> np.ndarray:
    """Averages over seeds, then over data sets: arrays (resamples, n) -> (resamples,)."""
    return np.mean([draw.mean(axis=1) for draw in draws], axis=0)


def interquartile_means(*draws: np.ndarray) -> np.ndarray:
    """Averages the middle half of the pooled values of all data sets; shapes as in `means`."""
    pooled = np.sort(np.concatenate(draws, axis=1), axis=1)
    cut = pooled.shape[1] // 4
    return pooled[:, cut : pooled.shape[1] - cut].mean(axis=1)


def improvements(*draws: np.ndarray) -> np.ndarray:
    """Estimates how often a run of one setting, the first half of the arrays (resamples, n), has a higher value than a
    run of the other on the same data: the Mann-Whitney U statistic over the number of pairs, averaged over data sets.
    Ties count half.
    """
    half = len(draws) // 2
    pairs = zip(draws[:half], draws[half:], strict=True)
    return (np.mean([np.sign(x[:, :, None] - y[:, None]).mean(axis=(1, 2)) for x, y in pairs], axis=0) + 1) / 2


def bootstrap(
    strata: Strata, statistic: Callable[..., np.ndarray], resamples: int, generator: np.random.Generator
) -> Interval:
    """Returns the percentile interval from resampling the seeds within each stratum (Agarwal et al. 2021, section 4);
    NaN if no stratum has two seeds.
    """
    if all(len(values) < 2 for values in strata):
        return Interval()
    draws = [values[generator.integers(0, len(values), (resamples, len(values)))] for values in strata]
    tail = 50 * (1 - CONFIDENCE)
    return Interval(*map(float, np.percentile(statistic(*draws), [tail, 100 - tail])))


@dataclass(frozen=True)
class Difference:
    """The difference between two settings, with its tests; the columns of `study.compare_pairs`, but for `constant`."""

    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    pairs: int = 0
    deviation: float = math.nan  # standard deviation of the differences between seeds
    p_student: float = math.nan  # of the paired t test
    p_sign_flips: float = math.nan
    p_least: float = math.nan  # the smallest p that the sign-flip test can give with this number of pairs
    varies: str = ""  # between pairs: "seeds", "data sets" (one seed each), or "" with a single pair
    constant: bool = False  # all differences within a data set are equal, so that there is no t test

    def decided_by(self, rows: int) -> str:
        """Says which test decides. Sign flips count if there are enough pairs for them to reach significance, with some
        margin, after a correction for the number of table rows.
        """
        if self.constant:
            return FLIPS
        return BOTH if self.varies and self.p_least <= SIGNIFICANT / (ROOM * rows) else STUDENT

    def p(self, rows: int) -> float:
        """Returns the p of the test that decides, of both tests the larger one; NaN with one pair."""
        counts = {FLIPS: [self.p_sign_flips], BOTH: [self.p_sign_flips, self.p_student], STUDENT: [self.p_student]}
        return max(counts[self.decided_by(rows)])


def difference(strata: Strata, generator: np.random.Generator) -> Difference:
    """Tests the mean of paired differences, given as one array per data set.

    Data sets with only one pair are left out if others have more. If all have one, the data sets are treated as a
    sample of data sets (Demšar 2006, section 3.2).
    """
    if not strata:
        return Difference()
    several = [values for values in strata if len(values) > 1]
    varies = "seeds" if several else "data sets" if len(strata) > 1 else ""
    used = several or [np.concatenate(strata)]
    middle, (error, freedom) = mean(used), spread(used)
    p_flips, p_least = sign_flips(used, generator)
    constant = varies != "" and error <= ROUNDING * max(abs(middle), 1e-300)
    p = math.nan if constant else float(2 * stats.t.sf(abs(middle) / error, freedom))
    deviation = math.sqrt(np.mean([values.var(ddof=1) for values in used])) if varies else math.nan
    low, high = Interval() if constant and middle else student(used)
    return Difference(middle, low, high, sum(map(len, used)), deviation, p, p_flips, p_least, varies, constant)


def sign_flips(strata: Strata, generator: np.random.Generator) -> tuple[float, float]:
    """Tests the mean difference by flipping signs; returns the two-sided p and the smallest p possible.

    This assumes only that without an effect each difference is as likely as its negative (Fisher 1935, section 21). It
    is exact up to 14 pairs; beyond, it uses random signs and counts the observed ones among them.
    """
    weighted = np.concatenate([values / (len(values) * len(strata)) for values in strata])
    n, observed = len(weighted), abs(weighted.sum()) * (1 - ROUNDING)
    if n <= EXACT:
        return float((np.abs(_patterns(n) @ weighted) >= observed).mean()), 2.0 / 2**n
    extreme = np.abs(generator.choice((-1, 1), (DRAWN, n)) @ weighted) >= observed
    return float((extreme.sum() + 1) / (DRAWN + 1)), 1.0 / (DRAWN + 1)


@functools.cache
def _patterns(n: int) -> np.ndarray:
    """Returns all sign patterns of n differences, (2^n, n)."""
    return (1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)).astype(np.float64)


def pairs_needed(rows: int) -> int:
    """Returns the number of pairs from which on the sign-flip test counts in a table with this number of rows."""
    return math.ceil(math.log2(2 * ROOM * rows / SIGNIFICANT))


def holm(p: Sequence[float]) -> np.ndarray:
    """Corrects p values for multiple tests (Holm 1979); NaN, a pair without a test, is not counted."""
    values = np.asarray(p, dtype=float)
    corrected = np.full(len(values), math.nan)
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN sorts last
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1.0)
    return corrected


def detectable(seeds: int, blocks: int = 1, alpha: float = SIGNIFICANT) -> float:
    """Returns the smallest effect that a two-sided paired t test finds in four cases out of five (Cohen 1988, chapter
    2), in standard deviations of the differences; infinite with a single seed.
    """
    freedom = blocks * (seeds - 1)
    if freedom < 1:
        return math.inf
    critical, root = stats.t.ppf(1 - alpha / 2, freedom), math.sqrt(blocks * seeds)

    def excess_power(effect: float) -> float:
        return float(stats.nct.sf(critical, freedom, effect * root)) - POWER  # the other tail is below alpha / 2

    return float(optimize.brentq(excess_power, 0, 20 * critical / root, xtol=1e-6))


def auroc_interval(nok: np.ndarray, scores: np.ndarray) -> Interval:
    """Returns Newcombe's score interval of an AUROC over its images (Newcombe, "Confidence intervals for an effect size
    measure based on the Mann-Whitney statistic", Statistics in Medicine 2006, part 2, method 5).

    It contains all AUROCs from which the observed one is plausible, given the variance at that AUROC. Unlike a
    percentile bootstrap over images, it has a width even if the ranking is perfect. nok: bool (n,), with both classes.
    """
    ones, zeros = int(nok.sum()), int((~nok).sum())
    observed = float(stats.mannwhitneyu(scores[nok], scores[~nok]).statistic) / (ones * zeros)
    z, more = stats.norm.ppf(0.5 + CONFIDENCE / 2), (ones + zeros) / 2 - 1

    def score(area: float) -> float:
        spread = 1 + more * (1 - area) / (2 - area) + more * area / (1 + area)
        return float((area - observed) ** 2 - z**2 * area * (1 - area) / (ones * zeros) * spread)

    low = optimize.brentq(score, EDGE, min(observed, 1 - EDGE)) if observed else 0.0
    return Interval(low, optimize.brentq(score, max(observed, EDGE), 1 - EDGE) if observed < 1 else 1.0)


def areas(nok: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the AUROCs (2,) of two runs on the same images, and their covariance (2, 2) (DeLong, DeLong and
    Clarke-Pearson 1988; computed from ranks as in Sun and Xu 2014). nok: bool (n,), at least two of each class.
    """
    over_ok, over_nok = [], []  # per NOK image the share of OK images below it, and vice versa
    for scores in (a, b):
        ranks, of_nok, of_ok = (stats.rankdata(s) for s in (scores, scores[nok], scores[~nok]))
        over_ok.append((ranks[nok] - of_nok) / (~nok).sum())
        over_nok.append(1 - (ranks[~nok] - of_ok) / nok.sum())
    return np.mean(over_ok, axis=1), np.cov(over_ok) / nok.sum() + np.cov(over_nok) / (~nok).sum()


def delong(nok: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, Interval, float]:
    """Compares the AUROCs of two runs on the same images.

    The interval combines the intervals of both AUROCs, given their correlation (Zou, "Toward using confidence intervals
    to compare correlations", Psychological Methods 2007), because DeLong's has zero width if both rankings are perfect.
    Returns the difference a - b, its interval, and DeLong's two-sided p, which is NaN if both rank all images alike.
    """
    aurocs, covariance = areas(nok, a, b)
    difference, error = float(aurocs[0] - aurocs[1]), math.sqrt(max(0.0, covariance.trace() - 2 * covariance[0, 1]))
    p = float(2 * stats.norm.sf(abs(difference) / error)) if error > EDGE else math.nan
    spread = math.sqrt(covariance[0, 0] * covariance[1, 1])
    correlation = covariance[0, 1] / spread if spread else 0.0
    one, other = (auroc_interval(nok, scores) for scores in (a, b))

    def reach(first: float, second: float) -> float:
        return math.sqrt(max(0.0, first**2 - 2 * correlation * first * second + second**2))

    low = difference - reach(aurocs[0] - one.low, other.high - aurocs[1])
    return difference, Interval(low, difference + reach(one.high - aurocs[0], aurocs[1] - other.low)), p


@dataclass(frozen=True)
class Ranks:
    """Ranks of settings over data sets, the best first."""

    settings: tuple[str, ...]
    mean: tuple[float, ...]  # mean ranks from 1; ties share their rank
    critical: float  # mean ranks that differ by less are not significantly different
    p: float  # of Friedman's test that all settings are equal
    blocks: int  # number of data sets

    @property
    def alike(self) -> list[tuple[int, int]]:
        """First and last index of each longest group of settings whose mean ranks differ by at most `critical`."""
        last = [max(k for k, other in enumerate(self.mean) if other - rank <= self.critical) for rank in self.mean]
        first = [last.index(end) for end in last]  # a group within another one ends with it
        return sorted({(start, end) for start, end in zip(first, last, strict=True) if end > start})

    def in_words(self) -> str:
        first = ", ".join(f"{name} ({rank:.2f})" for name, rank in zip(self.settings[:3], self.mean, strict=False))
        return (
            f"Mean ranks over {self.blocks} data sets: {first}. Friedman's p is {self.p:.2g}; mean ranks less than "
            f"{self.critical:.2f} apart are not significantly different (Nemenyi)."
        )


def rank(settings: Sequence[str], values: np.ndarray) -> Ranks | None:
    """Computes Friedman's test and Nemenyi's critical difference (Demšar, "Statistical Comparisons of Classifiers over
    Multiple Data Sets", JMLR 2006, section 3.2.2); None with fewer than 5 data sets or 3 settings.

    values: (data sets, settings), larger is better.
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
