from __future__ import annotations

import pytest
import torch

from anomalib_lite.errors import UserError
from anomalib_lite.scoring import MaxScore, TopKScore


def ramp(batch=2):
    """Maps with the values 0..99, shuffled, the second one ten times as large."""
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).float().view(1, 1, 10, 10)
    return torch.cat([order, order * 10])[:batch]


def test_max():
    assert MaxScore()(ramp()).tolist() == [99, 990]


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [(1, 99), (3, 98), (0.03, 98), (0.001, 99), (1.0, 49.5), (100, 49.5), (10**6, 49.5), (0.5, 74.5)],
)
def test_mean_of_the_largest(pixels, expected):
    assert TopKScore(pixels)(ramp()).tolist() == pytest.approx([expected, expected * 10])


@pytest.mark.parametrize("pixels", [0, -3, 0.0, 1.5, -0.1, True, float("nan")])
def test_bad_counts_and_shares_are_refused(pixels):
    with pytest.raises(UserError, match="pixels"):
        TopKScore(pixels)


def test_a_hot_pixel_moves_the_maximum_but_hardly_the_mean():
    map = torch.zeros(1, 1, 32, 32)
    map[0, 0, 3, 3] = 1
    assert MaxScore()(map).item() == 1
    assert TopKScore(0.1)(map).item() < 0.01


@pytest.mark.parametrize("score", [MaxScore(), TopKScore(0.05), TopKScore(7)])
def test_exports_with_any_batch_size(score):
    batch = {0: torch.export.Dim("batch", min=1)}
    exported = torch.export.export(score, (ramp(),), dynamic_shapes=(batch,)).module()
    maps = torch.cat([ramp(), ramp(), ramp()])
    assert torch.equal(exported(maps), score(maps))
