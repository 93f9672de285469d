"""Levels on one grid, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomalib_lite.detectors.stacked import chosen_levels, grid_of, stack
from anomalib_lite.errors import UserError

FINE, COARSE = torch.rand(2, 3, 8, 12), torch.rand(2, 5, 4, 6)


def test_a_coarser_level_is_bilinear_between_the_positions_centres():
    ramp = torch.arange(6.0).expand(1, 1, 4, 6)
    stacked = stack([FINE[:1], ramp], (8, 12))
    assert stacked.shape == (1, 4, 8, 12)
    np.testing.assert_array_equal(stacked[:, :3], FINE[:1])
    np.testing.assert_allclose(stacked[0, 3, 0, 1:-1], np.arange(12)[1:-1] / 2 - 0.25, rtol=1e-6)


def test_a_finer_level_is_averaged():
    stacked = stack([FINE, COARSE], (4, 6)).numpy()
    means = FINE.numpy().reshape(2, 3, 4, 2, 6, 2).mean((3, 5))
    np.testing.assert_allclose(stacked[:, :3], means, rtol=1e-5)
    np.testing.assert_array_equal(stacked[:, 3:], COARSE.numpy())


@pytest.mark.parametrize(("side", "positions"), [(256, 32), (250, 32), (8, 1), (3, 1)])
def test_the_grid_covers_the_image_as_strided_convolutions_do(side: int, positions: int):
    assert grid_of(torch.empty(1, 3, side, 256), 8) == (positions, 32)


def test_levels_are_named_by_their_place():
    assert chosen_levels(None, 3) == [0, 1, 2]
    assert chosen_levels([2, 1], 3) == [1, 2]


@pytest.mark.parametrize("levels", [[], [3], [-1]])
def test_levels_that_the_backbone_does_not_give_are_refused(levels: list[int]):
    with pytest.raises(UserError, match="0 to 2"):
        chosen_levels(levels, 3)
