"""Levels on one grid, their distances from a student's, and their maps made one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anomalib_lite.detectors.levels import (
    chosen_levels,
    fuse,
    grid_of,
    half_squared_distance,
    mean_squared_distance,
    stack,
)
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


def test_levels_are_named_by_their_place_and_others_refused():
    assert chosen_levels(None, 3) == [0, 1, 2] and chosen_levels([2, 1], 3) == [1, 2]
    for levels in ([], [3], [-1]):
        with pytest.raises(UserError, match="0 to 2"):
            chosen_levels(levels, 3)


def test_distances_over_the_channels_are_of_directions_or_squares():
    """Half the squared distance of directions is 1 - their cosine."""
    teacher, student = torch.rand(2, 2, 5, 3, 4) - 0.5
    found = half_squared_distance(teacher, 7 * student)
    torch.testing.assert_close(found, 1 - F.cosine_similarity(teacher, student, dim=1)[:, None])
    found = mean_squared_distance(torch.full((1, 2, 3, 3), 4.0), torch.tensor([1.0, 3.0]).view(1, 2, 1, 1))
    assert found.shape == (1, 1, 3, 3) and (found == 5).all()  # (9 + 1) / 2


def test_maps_are_fused_at_the_finest_resolution():
    fine, coarse = FINE[:, :1] + 0.1, torch.full((2, 1, 4, 3), 4.0)
    torch.testing.assert_close(fuse([coarse, fine], "product"), 2 * fine.sqrt())
    torch.testing.assert_close(fuse([coarse, fine], "sum"), (4 + fine) / 2)
