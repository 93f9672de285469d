"""The coreset against a brute-force greedy, and distances under projection."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomalib_lite.detectors import coreset
from anomalib_lite.detectors.coreset import greedy_centres, random_projection


def made(count: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    """Clusters of unequal spread and size, far from the origin, as features are."""
    generator = torch.Generator().manual_seed(seed)
    cluster = torch.randint(0, 6, (count,), generator=generator).square() // 5
    centres = 4 * torch.randn(6, dimensions, generator=generator) + 3
    return centres[cluster] + torch.randn(count, dimensions, generator=generator) * (0.2 + cluster[:, None])


def brute_force(rows: np.ndarray, count: int, first: int) -> list[int]:
    chosen, nearest = [first], np.full(len(rows), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, ((rows - rows[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(nearest.argmax()))
    return chosen


@pytest.mark.parametrize("pool", [1, 7, 64, 5000])
@pytest.mark.parametrize("first", [0, 123])
def test_the_choices_are_those_of_the_plain_greedy(monkeypatch: pytest.MonkeyPatch, pool: int, first: int):
    monkeypatch.setattr(coreset, "POOL", pool)
    rows = made(600, 8)
    assert greedy_centres(rows, 150, first).tolist() == brute_force(rows.double().numpy(), 150, first)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch):
    rows, whole = made(600, 8), coreset._approach
    expected = greedy_centres(rows, 60).tolist()
    monkeypatch.setattr(coreset, "_approach", lambda *parts: whole(*parts, block=37))
    assert greedy_centres(rows, 60).tolist() == expected


def test_nothing_is_chosen_twice_even_among_copies():
    rows = made(40, 4).repeat(5, 1)
    chosen = greedy_centres(rows, 120).tolist()
    assert len(set(chosen)) == 120
    assert {i % 40 for i in chosen[:40]} == set(range(40)), "each distinct row comes before any copy"


def test_more_than_there_are_gives_all():
    assert sorted(greedy_centres(made(30, 4), 100).tolist()) == list(range(30))


def test_one_centre_is_the_first():
    assert greedy_centres(made(30, 4), 1, 17).tolist() == [17]


def test_the_projection_keeps_distances():
    rows = made(300, 400)
    projected = random_projection(rows, 64, torch.Generator().manual_seed(0))
    ratio = torch.pdist(projected) / torch.pdist(rows)
    assert projected.shape == (300, 64)
    assert ratio.mean().item() == pytest.approx(1, abs=0.03) and ratio.std() < 0.12  # 1 / sqrt(2 * 64) = 0.09


def test_the_projection_leaves_short_rows_alone():
    rows = made(10, 8)
    assert random_projection(rows, 64, torch.Generator().manual_seed(0)) is rows
