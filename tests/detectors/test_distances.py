"""Distances between features, and the levels' maps as one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from anomalib_lite.detectors.distances import fuse, half_squared_distance, mean_squared_distance
from anomalib_lite.detectors.residual import ResidualModel
from anomalib_lite.errors import UserError


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_half_the_squared_distance_of_directions_is_one_minus_their_cosine() -> None:
    teacher, student = random(2, 5, 3, 4) - 0.5, random(2, 5, 3, 4, seed=1) - 0.5
    found = half_squared_distance(teacher, 7 * student)
    assert found.shape == (2, 1, 3, 4)
    torch.testing.assert_close(found[:, 0], 1 - F.cosine_similarity(teacher, student, dim=1))


def test_the_mean_squared_distance_goes_over_the_channels() -> None:
    found = mean_squared_distance(torch.full((1, 2, 3, 3), 4.0), torch.tensor([1.0, 3.0]).view(1, 2, 1, 1))
    assert found.shape == (1, 1, 3, 3) and (found == 5).all()  # (9 + 1) / 2


def test_maps_are_fused_at_the_finest_resolution() -> None:
    fine, coarse = random(2, 1, 8, 6) + 0.1, torch.full((2, 1, 4, 3), 4.0)
    torch.testing.assert_close(fuse([coarse, fine], "product"), 2 * fine.sqrt())
    torch.testing.assert_close(fuse([coarse, fine], "sum"), (4 + fine) / 2)


def test_an_unknown_fusion_names_the_known_ones_before_anything_is_trained() -> None:
    with pytest.raises(UserError, match="fusion must be product or sum, not 'mean'"):
        fuse([random(1, 1, 2, 2)], "mean")
    with pytest.raises(UserError, match="product or sum, not 'Product'"):
        ResidualModel([[0]], fusion="Product")
