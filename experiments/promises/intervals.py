"""Do the intervals of AUROC hold what they promise? Over 500 simulated test sets of several sizes.

usage: python experiments/promises/intervals.py [SEED]

Scores are normal; those of NOK images lie higher, so that the true AUROC is known. Two runs see the same images, and
share half of their scores' variance. Prints in how many sets the 95 % interval (Newcombe) holds the first run's AUROC,
in how many percentiles of 2,000 resampled sets (bootstrap, OK and NOK images drawn apart) would, in how many the
interval of the difference holds that of both, in how many DeLong's own would, and in how many his test calls a
difference at 5 % between two equal runs. SEED (0) draws the sets.
"""

import math
import sys

import numpy as np
from scipy import stats

from anomalib_lite.comparison.statistics import areas, auroc_interval, delong

SETS = 500
SIZES = ((20, 63), (30, 40), (178, 388), (10, 10))  # OK and NOK images; the first and third as bottle's and MTD's
GAPS = ((1.2, 0.9), (2.5, 2.0))  # by how many standard deviations NOK scores lie higher, in the first and second run


def resampled(nok: np.ndarray, scores: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """What the interval would be by the percentiles of a bootstrap."""
    wins = (np.sign(scores[nok][:, None] - scores[~nok][None]) + 1) / 2
    rows, columns = (generator.multinomial(n, np.full(n, 1 / n), 2000) / n for n in wins.shape)
    low, high = np.percentile(((rows @ wins) * columns).sum(axis=1), (2.5, 97.5))
    return float(low), float(high)


def shares(ok: int, nok: int, gaps: tuple[float, float], seed: int) -> list[float]:
    """Of the sets: both intervals hold the AUROC, both the difference, and DeLong's test claims one where none is."""
    generator, held = np.random.default_rng(seed), np.zeros(5)
    true = [stats.norm.cdf(gap / math.sqrt(2)) for gap in gaps]
    labels = np.arange(ok + nok) < nok
    for _ in range(SETS):
        shared = generator.normal(size=len(labels))
        a, b = (shared + generator.normal(size=len(labels)) for _ in gaps)
        a, b = a / math.sqrt(2) + gaps[0] * labels, b / math.sqrt(2)
        found, (low, high) = auroc_interval(labels, a), resampled(labels, a, generator)
        difference = delong(labels, a, b + gaps[1] * labels)[1]
        (first, second), covariance = areas(labels, a, b + gaps[1] * labels)
        half = 1.96 * math.sqrt(max(0.0, covariance.trace() - 2 * covariance[0, 1]))
        held += [
            found.low <= true[0] <= found.high,
            low <= true[0] <= high,
            difference.low <= true[0] - true[1] <= difference.high,
            abs(first - second - (true[0] - true[1])) <= half,
            delong(labels, a, b + gaps[0] * labels)[2] < 0.05,
        ]
    return (held / SETS).tolist()


def main(seed: int = 0) -> None:
    print("| OK | NOK | true AUROC | interval holds it | bootstrap | holds difference | DeLong's own | claims one |")
    print("|---|---|---|---|---|---|---|---|")
    for gaps in GAPS:
        for ok, nok in SIZES:
            held = " | ".join(f"{share:.1%}" for share in shares(ok, nok, gaps, seed))
            print(f"| {ok} | {nok} | {stats.norm.cdf(gaps[0] / math.sqrt(2)):.3f} | {held} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
