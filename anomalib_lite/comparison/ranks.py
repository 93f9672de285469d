"""Average ranks over data sets, and which of them lie too near to be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

BLOCKS, SETTINGS = 5, 3  # from which on ranks over data sets say something


@dataclass(frozen=True)
class Ranks:
    """Of settings over data sets.

    Attributes:
        settings: The best first.
        mean: Their mean ranks, 1 being the best; ties share theirs.
        critical: Mean ranks that differ by less are not told apart.
        p: Of Friedman's test that all settings are alike.
        blocks: How many data sets there are.
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


def rank(settings: Sequence[str], values: np.ndarray, alpha: float = 0.05) -> Ranks | None:
    """Friedman's test and Nemenyi's critical difference (Demšar, "Statistical Comparisons of Classifiers over Multiple
    Data Sets", JMLR 2006, section 3.2.2).

    values: (data sets, settings), more being better. None for fewer than 5 data sets or 3 settings.
    """
    blocks, count = values.shape
    if blocks < BLOCKS or count < SETTINGS:
        return None
    mean = stats.rankdata(-values, axis=1).mean(axis=0)
    order = np.argsort(mean, kind="stable")
    q = float(stats.studentized_range.ppf(1 - alpha, count, math.inf)) / math.sqrt(2)
    p = 1.0 if np.ptp(mean) == 0 else float(stats.friedmanchisquare(*values.T).pvalue)
    critical = q * math.sqrt(count * (count + 1) / (6 * blocks))
    return Ranks(tuple(settings[k] for k in order), tuple(mean[order].tolist()), critical, p, blocks)
