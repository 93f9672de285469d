"""Checks the coverage of the AUROC intervals on 500 simulated test sets of several sizes.

usage: python experiments/promises/intervals.py [SEED]

Scores are normal, with a higher mean for NOK images, so that the true AUROC is known. Two runs score the same images,
and share half of their variance. Prints the share of sets in which the 95 % interval (Newcombe) contains the first
run's AUROC; in which a bootstrap interval does (percentiles of 2,000 resamples of OK and NOK images separately); in
which the interval of the difference, and DeLong's, contain the true difference; and in which DeLong's test finds a
difference at 5 % between two equal runs. SEED (0) draws the sets.
"""

import math
import sys

import numpy as np
from scipy import stats

from anomalib_lite.comparison.statistics import areas, auroc_interval, delong

SETS = 500
SIZES = ((20, 63), (30, 40), (178, 388), (10, 10))  # OK and NOK images; the first and third are bottle's and MTD's
GAPS = ((1.2, 0.9), (2.5, 2.0))  # by how many standard deviations NOK scores are higher, in the first and second run


def bootstrap_interval(nok: np.ndarray, scores: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Computes the interval by the percentiles of a bootstrap."""
    wins = (np.sign(scores[nok][:, None] - scores[~nok][None]) + 1) / 2
    rows, columns = (generator.multinomial(n, np.full(n, 1 / n), 2000) / n for n in wins.shape)
    low, high = np.percentile(((rows @ wins) * columns).sum(axis=1), (2.5, 97.5))
    return float(low), float(high)


def shares(ok: int, nok: int, gaps: tuple[float, float], seed: int) -> list[float]:
    """Returns the five shares of sets in the order of the table."""
    generator, counts = np.random.default_rng(seed), np.zeros(5)
    true = [stats.norm.cdf(gap / math.sqrt(2)) for gap in gaps]
    labels = np.arange(ok + nok) < nok
    for _ in range(SETS):
        shared = generator.normal(size=len(labels))
        a, b = (shared + generator.normal(size=len(labels)) for _ in gaps)
        a, b = a / math.sqrt(2) + gaps[0] * labels, b / math.sqrt(2)
        interval, (low, high) = auroc_interval(labels, a), bootstrap_interval(labels, a, generator)
        difference = delong(labels, a, b + gaps[1] * labels)[1]
        (first, second), covariance = areas(labels, a, b + gaps[1] * labels)
        half = 1.96 * math.sqrt(max(0.0, covariance.trace() - 2 * covariance[0, 1]))
        counts += [
            interval.low <= true[0] <= interval.high,
            low <= true[0] <= high,
            difference.low <= true[0] - true[1] <= difference.high,
            abs(first - second - (true[0] - true[1])) <= half,
            delong(labels, a, b + gaps[0] * labels)[2] < 0.05,
        ]
    return (counts / SETS).tolist()


def main(seed: int = 0) -> None:
    print("| OK | NOK | true AUROC | interval | bootstrap | interval of difference | DeLong's | false positives |")
    print("|---|---|---|---|---|---|---|---|")
    for gaps in GAPS:
        for ok, nok in SIZES:
            cells = " | ".join(f"{share:.1%}" for share in shares(ok, nok, gaps, seed))
            print(f"| {ok} | {nok} | {stats.norm.cdf(gaps[0] / math.sqrt(2)):.3f} | {cells} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
