"""Statistics of features: whitening and Gaussians against plain NumPy and scikit-learn, and how they are saved."""

import numpy as np
import pytest
import torch
from sklearn.covariance import oas
from torch import nn

from anomalib_lite.detectors.statistics import Fitted, Moments, PositionGaussian, Whitening, moments_of, oas_share


class Bank(Fitted):
    def __init__(self, *shape: int) -> None:
        super().__init__("rows")
        self.rows = torch.rand(*shape) if shape else self.rows
        self.register_buffer("count", torch.tensor(7 if shape else 0))


@pytest.mark.parametrize("shape", [(3, 4), (5,), (0,)])
def test_any_shape_and_type_comes_back_as_a_copy(shape: tuple[int, ...]):
    saved, fresh = (nn.Sequential(nn.Linear(2, 2), bank) for bank in (Bank(*shape), Bank(9)))
    saved[1].rows = saved[1].rows.half()
    state = saved.state_dict()
    expected = state["1.rows"].clone()
    fresh.load_state_dict(state)
    state["1.rows"].zero_()
    assert torch.equal(fresh[1].rows, expected) and fresh[1].rows.dtype == torch.float16 and fresh[1].count == 7
    assert torch.equal(fresh[0].weight, saved[0].weight)


def test_an_absent_buffer_is_still_an_error():
    with pytest.raises(RuntimeError, match=r"Missing key.*rows"):
        Bank().load_state_dict({"count": torch.tensor(1)})


def correlated(rows: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Rows whose variances span four orders of magnitude, far from zero mean."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels)) * np.logspace(-2, 2, channels)
    return torch.from_numpy((rng.normal(size=(rows, channels)) @ mixing.T + 50).astype(np.float32))


def test_streamed_moments_are_numpys_of_each_population():
    rows = torch.stack([correlated(100, 3, seed) for seed in range(4)])  # (4, 100, 3)
    moments = Moments()
    for part in rows.split(30, 1):
        moments.update(part)
    mean, covariance = moments.mean_and_covariance()
    for k, own in enumerate(rows.double().numpy()):
        np.testing.assert_allclose(mean[k].numpy(), own.mean(0), rtol=1e-12)
        np.testing.assert_allclose(covariance[k].numpy(), np.cov(own.T, bias=True), rtol=1e-8)


def moments_all(features: torch.Tensor) -> Moments:
    return moments_of([[features]], by_position=False)[0]


@pytest.mark.parametrize(("shrinkage", "accuracy"), [(0.0, 2e-2), (0.01, 1e-3), (1.0, 1e-3)])
def test_shrinkage_adds_its_share_of_the_mean_variance_to_each_direction(shrinkage: float, accuracy: float):
    """Oracle: C (C + s I)^-1 for the covariance C, with s the share of its mean eigenvalue; without, the identity."""
    features = correlated(8 * 20 * 16, 5).reshape(8, 20, 16, 5).movedim(-1, 1)
    whitening = Whitening(shrinkage)
    whitening.fit(moments_all(features))
    found = whitening(features)
    assert found.shape == features.shape
    np.testing.assert_allclose(found.mean((0, 2, 3)).numpy(), 0, atol=1e-3)
    before, after = (np.cov(f.double().movedim(1, 0).flatten(1).numpy(), bias=True) for f in (features, found))
    added = shrinkage * np.trace(before) / 5 * np.eye(5)
    np.testing.assert_allclose(after, before @ np.linalg.inv(before + added), atol=accuracy)


def test_a_constant_channel_stays_finite():
    features = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    features[:, 1] = 7.0
    whitening = Whitening(0.01)
    whitening.fit(moments_all(features))
    assert whitening(features).isfinite().all() and whitening(features)[:, 1].abs().max() < 1e-3


def made(count: int, seed: int) -> torch.Tensor:
    """Features (count, 4, 3, 5) with another mean and scale at each position."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.Generator().manual_seed(99)
    scale, mean = (torch.rand(4, 3, 5, generator=places) * k + 0.5 for k in (3, 20))
    noise = torch.randn(count, 4, 3, 5, generator=generator)
    noise[:, 1] += 0.8 * noise[:, 0]
    return noise * scale + mean


def fitted(features: torch.Tensor, **options: float | str) -> PositionGaussian:
    gaussian = PositionGaussian(**options)
    gaussian.fit(*moments_of([part] for part in features.split(16)))
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


@pytest.mark.parametrize("places", [6, 1])
def test_many_channels_are_whitened_in_parts_as_all_at_once(places: int):
    known = torch.randn(200, 70, 2, 3, generator=torch.Generator().manual_seed(0))
    gaussian, (moments,) = PositionGaussian(), moments_of([[known]])
    gaussian.fit(moments if places > 1 else moments.pooled((2, 3), None))
    asked = known[:3] * 2 + 1
    found = gaussian.deviations(asked)
    roots, means = (part.expand(6, *part.shape[1:]) for part in (gaussian.precision_root, gaussian.mean))
    expected = torch.einsum("pij,bjp->bip", roots, asked.flatten(2) - means.T).view(3, 70, 2, 3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gaussian(asked), expected.square().mean(1, keepdim=True), atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize("shrinkage", ["auto", 0.0, 0.5])
def test_one_image_and_copies_of_it_are_enough(shrinkage: float | str):
    """Nothing varies, so the spread over the positions stands in; the image itself has no distance, others do. Of two
    images, fewer than channels, all distances are finite.
    """
    one, other = made(1, seed=0), made(1, seed=1)
    for features in (one, one.repeat(5, 1, 1, 1), torch.ones_like(one)):
        gaussian = fitted(features, shrinkage=shrinkage)
        assert gaussian(features).abs().max() < 1e-3 and 0 < gaussian(other).mean() < float("inf")
    few = fitted(made(2, 0), shrinkage=shrinkage)(made(5, 1))
    assert few.isfinite().all() and (few >= 0).all()
