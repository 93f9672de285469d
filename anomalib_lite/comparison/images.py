"""What other test images could change: intervals over the images of a run, and two runs on the same images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from anomalib_lite.comparison.design import Design
from anomalib_lite.comparison.runs import Run
from anomalib_lite.comparison.statistics import SIGNIFICANT, Interval, holm

COLUMNS = (
    "data",
    "setting",
    "seed",
    "auroc",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "p_holm",
)


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


def within(low: float, high: float, margin: float) -> bool:
    """Whether an interval says that a difference is too small to matter (two one-sided tests)."""
    return -margin < low and high < margin


def image_table(design: Design, runs: list[Run], against: str, margin: float, confidence: float) -> pd.DataFrame:
    """A row a run whose predictions.csv is there: its image AUROC with the interval over test images; and its
    difference to the run of the setting `against` with the same data and seed, by DeLong's test, with Holm's p.
    """
    generator, rows = np.random.default_rng(0), []
    keys = list(design.rows[["data", "variant", "seed"]].itertuples(index=False, name=None))
    known = {key: found for key, run in zip(keys, runs, strict=True) if (found := _predictions(run)) is not None}
    for (data, variant, seed), own in known.items():
        nok, scores = own["label"].to_numpy() == 1, own["score"].to_numpy()
        auroc = stats.mannwhitneyu(scores[nok], scores[~nok]).statistic / (nok.sum() * (~nok).sum())
        row = (data, variant, seed, auroc, *auroc_interval(nok, scores, generator, confidence))
        other = known.get((data, against, seed))
        if variant != against and other is not None and own.index.equals(other.index):
            found = delong(nok, scores, other["score"].to_numpy(), confidence)
            rows.append((*row, found.difference, *found.interval, found.p))
        else:
            rows.append((*row, *[math.nan] * 4))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["p_holm"] = holm(table["p_holm"])
    table["verdict"] = [_verdict(row, margin) for row in table.itertuples()]
    return table


def _predictions(run: Run) -> pd.DataFrame | None:
    file = run.folder / "predictions.csv"
    if not file.is_file():
        return None
    found = pd.read_csv(file).set_index("image").sort_index()
    return found if set(found["label"]) >= {0, 1} and found["label"].value_counts().min() > 1 else None


def _verdict(row: NamedTuple, margin: float) -> str:
    if math.isnan(row.difference):
        return ""
    words = ("better" if row.difference > 0 else "worse") if row.p_holm < SIGNIFICANT else "not told apart"
    if within(row.difference_low, row.difference_high, margin):
        return "practically equal" if words == "not told apart" else f"{words}, practically equal"
    return words
