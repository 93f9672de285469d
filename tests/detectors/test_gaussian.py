"""The Gaussian of each position against numpy's Mahalanobis distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import oas

from anomalib_lite.detectors.gaussian import PositionGaussian, oas_share
from anomalib_lite.detectors.whitening import Moments
from anomalib_lite.errors import UserError


def made(count: int, seed: int) -> torch.Tensor:
    """Features (count, 4, 3, 5) with another mean and scale at each position."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.Generator().manual_seed(99)
    scale, mean = (torch.rand(4, 3, 5, generator=places) * k + 0.5 for k in (3, 20))
    noise = torch.randn(count, 4, 3, 5, generator=generator)
    noise[:, 1] += 0.8 * noise[:, 0]
    return noise * scale + mean


def fitted(features: torch.Tensor, **options: float | str) -> PositionGaussian:
    gaussian, moments = PositionGaussian(**options), Moments()
    for part in features.split(16):
        PositionGaussian.update(moments, part)
    gaussian.fit(moments)
    return gaussian


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_the_map_is_the_mahalanobis_distance_of_each_position(shrinkage: float, ridge: float):
    known, asked = made(40, 0), made(3, 1)
    found = fitted(known, shrinkage=shrinkage, ridge=ridge)(asked)
    assert found.shape == (3, 1, 3, 5)
    rows, asked = known.double().numpy(), asked.double().numpy()
    own = np.stack([[np.cov(rows[:, :, y, x].T, bias=True) for x in range(5)] for y in range(3)])
    pooled = own.mean((0, 1))
    for y in range(3):
        for x in range(5):
            covariance = (1 - shrinkage) * own[y, x] + shrinkage * pooled + ridge * np.trace(pooled) / 4 * np.eye(4)
            difference = asked[:, :, y, x] - rows[:, :, y, x].mean(0)
            expected = np.einsum("bi,ij,bj->b", difference, np.linalg.inv(covariance), difference) / 4
            np.testing.assert_allclose(found[:, 0, y, x].numpy(), expected, rtol=1e-4)


def test_the_map_is_one_on_average_where_the_model_is_right():
    assert fitted(made(2000, 0), shrinkage=0.0, ridge=0.0)(made(2000, 1)).mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("count", [3, 12, 200])
def test_the_automatic_share_is_that_of_scikit_learn(count: int):
    rows = made(count, 0).double().flatten(2).permute(2, 0, 1)
    centred = rows - rows.mean(1, keepdim=True)
    found = oas_share(centred.transpose(1, 2) @ centred / count, count)
    expected = [oas(own.numpy(), assume_centered=True)[1] for own in centred]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_the_automatic_covariance_is_that_of_scikit_learn_where_the_pooled_one_is_the_identity():
    known, asked = made(12, 0), made(3, 1)
    rows = known.double().flatten(2).permute(2, 0, 1)
    centred = rows - rows.mean(1, keepdim=True)
    pooled = (centred.transpose(1, 2) @ centred / 12).mean(0)
    white = torch.linalg.inv(torch.linalg.cholesky(pooled))
    found = fitted(known, shrinkage="auto", ridge=0.0)(asked)[:, 0].flatten(1)
    for place, own in enumerate(centred @ white.T):
        difference = (asked.double().flatten(2)[:, :, place] - rows[place].mean(0)) @ white.T
        inverse = torch.from_numpy(np.linalg.inv(oas(own.numpy(), assume_centered=True)[0]))
        expected = torch.einsum("bi,ij,bj->b", difference, inverse, difference) / 4
        np.testing.assert_allclose(found[:, place].numpy(), expected.numpy(), rtol=1e-3)


def test_a_shrinkage_that_is_none_is_refused():
    with pytest.raises(UserError, match="auto or a number"):
        PositionGaussian("automatic")


def test_fewer_images_than_channels_are_enough_with_shrinkage_and_ridge():
    few = fitted(made(2, 0), shrinkage=0.1, ridge=0.01)(made(5, 1))
    assert few.isfinite().all() and (few >= 0).all()


def test_a_saved_model_gives_the_same_map_to_the_bit():
    gaussian, fresh = fitted(made(40, 0)), PositionGaussian()
    fresh.load_state_dict(gaussian.state_dict())
    assert torch.equal(gaussian(made(4, 1)), fresh(made(4, 1)))
