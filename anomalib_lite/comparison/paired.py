"""The difference of two settings, paired by seed and data set, and whether it can be chance."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from anomalib_lite.comparison.strata import Interval, Strata, spread, student

SIGNIFICANT = 0.05
ROOM = 4  # the least p of the sign flips must lie this far below what is asked for
EXACT = 14  # pairs up to which all 2^n sign patterns are gone through
DRAWN = 20_000  # sign patterns beyond that
ROUNDING = 1e-12  # relative: sums of the same differences in another order are the same


@dataclass(frozen=True)
class Difference:
    """`p_student` is the p of the paired t test, `p_flips` the exact one of the sign-flip test, and `p_least` the
    smallest that so many pairs allow it. `varies` says what the pairs differ in: "seeds", "data sets" (one seed each),
    or "" where there is only one pair.
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
    pairs = sum(len(values) for values in used)
    p_flips, p_least = sign_flips(used, generator)
    constant = varies != "" and found.error <= ROUNDING * max(abs(found.mean), 1e-300)
    p = math.nan if constant else _t_test(found.mean, found.error, found.freedom)
    deviation = math.sqrt(np.mean([v.var(ddof=1) for v in used])) if varies else math.nan
    interval = Interval() if constant and found.mean else student(used, confidence)
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
        return float(reached.mean()), 2.0 / 2**n if n else 1.0
    return float((reached.sum() + 1) / (DRAWN + 1)), 1.0 / (DRAWN + 1)


@functools.cache
def _patterns(n: int) -> np.ndarray:
    """All signs of n differences, (2^n, n)."""
    return (1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)).astype(np.float64)


def pairs_needed(rows: int) -> int:
    """The number of pairs from which on the sign flips decide in a table of so many rows."""
    return math.ceil(math.log2(2 * ROOM * rows / SIGNIFICANT))


def holm(p: np.ndarray) -> np.ndarray:
    """p values corrected for their number (Holm 1979); NaN, a pair without a test, does not count."""
    corrected = np.full(len(p), math.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected


def _t_test(mean: float, error: float, freedom: float) -> float:
    if math.isnan(error):
        return math.nan
    return float(2 * stats.t.sf(abs(mean) / error, freedom))
