"""Checks the threshold's guaranteed false-alarm rate, and the false positives of `compare`.

usage: python experiments/promises/run.py FIGURE.png NAME=RUN_FOLDER NAME=RUN_FOLDER ...

The scores of held-out and tested OK images, none of which the detector learned from, are randomly split into halves:
one sets the threshold by the package's rule, the other counts false alarms. Prints for each run the guaranteed rate,
the mean rate over the splits with its standard error, and the share of splits whose rate lies in the central 90 % of
the theoretical distribution (beta-binomial: Vovk, "Conditional validity of inductive conformal predictors", 2012).

Then simulates 200 experiments without any effect (four settings on two data sets that differ only by the seeds' noise),
and prints in how many `compare` finds any pair of settings, or any factor, different.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from anomalib_lite.comparison.statistics import SIGNIFICANT
from anomalib_lite.comparison.study import compare_pairs, marginal_effects
from anomalib_lite.report import ink
from anomalib_lite.runs.folder import open_finished
from anomalib_lite.scoring import threshold_from_ok
from tests.comparison.test_effects import null_results

SPLITS, RATE = 500, 0.05
SEEDS = (3, 5, 10)


def unseen(folder: Path) -> np.ndarray:
    """Returns the scores (n,) of OK images that the run has not learned from."""
    run = open_finished(folder)
    test_scores = [row["score"] for row in run.predictions() if row["label"] == 0]
    return np.array([*run.threshold["scores"], *test_scores])


def rates_of(scores: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float, int, int]:
    """Returns the rates (500,) of the splits, the guaranteed rate, and the number of images in each half."""
    half, rates, promised = len(scores) // 2, [], 0.0
    for _ in range(SPLITS):
        shuffled = rng.permutation(scores)
        threshold = threshold_from_ok(shuffled[:half], shuffled[:half], RATE)
        rates.append(float(np.mean([threshold.nok(score) for score in shuffled[half:]])))
        promised = threshold.promised_rate
    return np.array(rates), promised, half, len(scores) - half


def smallest(seeds: int) -> np.ndarray:
    """Returns each null experiment's smallest corrected p values, over pairs of settings and factors: (200, 2)."""
    generator, p_values = np.random.default_rng(0), []
    for view in null_results(seeds):
        pairs = compare_pairs(view, None, 100, generator)
        effects = marginal_effects(view, {}, generator)
        p_values.append([pairs.p_holm.min(), effects.p_holm.min()])
    return np.array(p_values)


def main(figure: Path, runs: dict[str, Path]) -> None:
    drawing, axes = ink.grid(len(runs) + 1, 3.2, 2.4)
    print(f"{'run':22} held out  tested guaranteed  mean +- error   within 90 %")
    for axis, (name, folder) in zip(axes, runs.items(), strict=False):
        rates, promised, held_out, tested = rates_of(unseen(folder), np.random.default_rng(0))
        allowed = round(promised * (held_out + 1))
        theory = stats.betabinom(tested, allowed, held_out + 1 - allowed)
        low, high = theory.ppf([0.05, 0.95]) / tested
        inside = float(np.mean((rates >= low) & (rates <= high)))
        error = rates.std(ddof=1) / np.sqrt(SPLITS)
        print(f"{name:22} {held_out:8} {tested:7} {promised:10.4f} {rates.mean():8.4f} +- {error:.4f} {inside:8.1%}")
        counts = np.arange(int(theory.ppf(0.999)) + 2)
        axis.hist(np.rint(rates * tested), bins=counts - 0.5, density=True, color=ink.OK_PALE)
        axis.plot(counts, theory.pmf(counts), "o-", color=ink.NOK, markersize=3, linewidth=1)
        axis.axvline(promised * tested, color=ink.MUTED, linewidth=1)
        axis.set_xlabel(f"false alarms among {tested}")
        ink.entitle(axis, name)
    print("seeds  null experiments  any pair significant  any factor")
    levels, axis = np.linspace(0, 0.2, 201), axes[len(runs)]
    for seeds, colour in zip(SEEDS, ink.SERIES, strict=False):
        p_values = smallest(seeds)
        pairs, factors = (p_values < SIGNIFICANT).mean(axis=0)
        print(f"{seeds:5} {len(p_values):17} {pairs:21.1%} {factors:11.1%}", flush=True)
        axis.plot(levels, (p_values[:, :1] < levels).mean(axis=0), color=colour, linewidth=1, label=f"{seeds} seeds")
    axis.plot(levels, levels, color=ink.MUTED, linewidth=1, linestyle="--")
    axis.axvline(SIGNIFICANT, color=ink.MUTED, linewidth=1)
    axis.set_xlabel("level; share of null experiments found significant")
    axis.legend(frameon=False, fontsize=7)
    ink.entitle(axis, "compare")
    ink.save_png(drawing, figure)
    print(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), {name: Path(folder) for name, _, folder in (part.partition("=") for part in sys.argv[2:])})
