"""Does the false-alarm rate lie where the threshold promises, and does `compare` call too much different?

usage: python experiments/promises/run.py FIGURE.png NAME=RUN_FOLDER NAME=RUN_FOLDER ...

The scores of held-out and of tested OK images, none of which the detector learned from, are dealt into halves: one sets
the threshold by the package's own rule, the other is judged by it. Prints for each run the promised rate, the mean over
the splits with its standard error, and the share of splits whose rate lies in the central 90 % of what the theory says
(beta-binomial: Vovk, "Conditional validity of inductive conformal predictors", 2012).

Then 200 experiments are simulated in which no setting differs from another (four settings on two data sets, all that
changes is the seeds' noise): in how many does `compare` call any pair of settings, or any factor, different?
"""

import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from anomalib_lite.comparison.design import marginal_effects
from anomalib_lite.comparison.statistics import SIGNIFICANT
from anomalib_lite.comparison.study import compare_pairs
from anomalib_lite.report import ink
from anomalib_lite.runs.folder import open_finished
from anomalib_lite.scoring import threshold_from_ok
from tests.comparison.test_effects import null_results

SPLITS, RATE = 500, 0.05
SEEDS = (3, 5, 10)


def unseen(folder: Path) -> np.ndarray:
    """(n,): scores of OK images that the run has not learned from."""
    run = open_finished(folder)
    tested = [row["score"] for row in run.predictions() if row["label"] == 0]
    return np.array([*run.threshold["scores"], *tested])


def rates_of(scores: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float, int, int]:
    """The rates (500,) of the splits, what was promised, and how many images each half has."""
    half, rates, promised = len(scores) // 2, [], 0.0
    for _ in range(SPLITS):
        dealt = rng.permutation(scores)
        threshold = threshold_from_ok(dealt[:half], dealt[:half], RATE)
        rates.append(float(np.mean([threshold.nok(score) for score in dealt[half:]])))
        promised = threshold.promised_rate
    return np.array(rates), promised, half, len(scores) - half


def smallest(seeds: int) -> np.ndarray:
    """(200, 2): each null experiment's smallest corrected p value, of its pairs of settings and of its factors."""
    generator, found = np.random.default_rng(0), []
    for view in null_results(seeds):
        pairs = compare_pairs(view, None, 100, generator)
        effects = marginal_effects(view, {}, generator)
        found.append([pairs.p_holm.min(), effects.p_holm.min()])
    return np.array(found)


def main(figure: Path, runs: dict[str, Path]) -> None:
    drawing, axes = ink.grid(len(runs) + 1, 3.2, 2.4)
    print(f"{'run':22} held out  judged  promised   mean +- error   within 90 %")
    for axis, (name, folder) in zip(axes, runs.items(), strict=False):
        rates, promised, held_out, judged = rates_of(unseen(folder), np.random.default_rng(0))
        allowed = round(promised * (held_out + 1))
        theory = stats.betabinom(judged, allowed, held_out + 1 - allowed)
        low, high = theory.ppf([0.05, 0.95]) / judged
        inside = float(np.mean((rates >= low) & (rates <= high)))
        error = rates.std(ddof=1) / np.sqrt(SPLITS)
        print(f"{name:22} {held_out:8} {judged:7} {promised:9.4f} {rates.mean():8.4f} +- {error:.4f} {inside:9.1%}")
        counts = np.arange(int(theory.ppf(0.999)) + 2)
        axis.hist(np.rint(rates * judged), bins=counts - 0.5, density=True, color=ink.OK_PALE)
        axis.plot(counts, theory.pmf(counts), "o-", color=ink.NOK, markersize=3, linewidth=1)
        axis.axvline(promised * judged, color=ink.MUTED, linewidth=1)
        axis.set_xlabel(f"false alarms among {judged}")
        ink.entitle(axis, name)
    print("seeds  null experiments  a pair called different  a factor")
    levels, axis = np.linspace(0, 0.2, 201), axes[len(runs)]
    for seeds, colour in zip(SEEDS, ink.SERIES, strict=False):
        found = smallest(seeds)
        pairs, factors = (found < SIGNIFICANT).mean(axis=0)
        print(f"{seeds:5} {len(found):17} {pairs:24.1%} {factors:9.1%}", flush=True)
        axis.plot(levels, (found[:, :1] < levels).mean(axis=0), color=colour, linewidth=1, label=f"{seeds} seeds")
    axis.plot(levels, levels, color=ink.MUTED, linewidth=1, linestyle="--")
    axis.axvline(SIGNIFICANT, color=ink.MUTED, linewidth=1)
    axis.set_xlabel("level; share of null experiments called different")
    axis.legend(frameon=False, fontsize=7)
    ink.entitle(axis, "compare")
    ink.save_png(drawing, figure)
    print(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), {name: Path(folder) for name, _, folder in (part.partition("=") for part in sys.argv[2:])})
