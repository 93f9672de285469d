"""Whitened features have identity covariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomalib_lite.detectors.whitening import Moments, Whitening


def correlated(rows: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Rows whose variances span four orders of magnitude, far from zero mean."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels)) * np.logspace(-2, 2, channels)
    return torch.from_numpy((rng.normal(size=(rows, channels)) @ mixing.T + 50).astype(np.float32))


def test_streamed_moments_are_numpys_of_all_rows():
    rows = correlated(500, 6)
    moments = Moments()
    for part in rows.split(77):
        moments.update(part)
    mean, covariance = moments.mean_and_covariance()
    np.testing.assert_allclose(mean.numpy(), rows.double().numpy().mean(0), rtol=1e-12)
    expected = np.cov(rows.double().numpy().T, bias=True)
    np.testing.assert_allclose(covariance.numpy(), expected, rtol=1e-9, atol=1e-9 * expected.max())


def test_populations_are_kept_apart():
    rows = torch.stack([correlated(100, 3, seed) for seed in range(4)])  # (4, 100, 3)
    moments = Moments()
    moments.update(rows[:, :30])
    moments.update(rows[:, 30:])
    mean, covariance = moments.mean_and_covariance()
    for k in range(4):
        np.testing.assert_allclose(mean[k].numpy(), rows[k].double().numpy().mean(0), rtol=1e-12)
        np.testing.assert_allclose(covariance[k].numpy(), np.cov(rows[k].double().numpy().T, bias=True), rtol=1e-8)


def whitened(shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Covariance before and after, over all pixels of features (8, 5, 20, 16)."""
    features = correlated(8 * 20 * 16, 5).reshape(8, 20, 16, 5).movedim(-1, 1)
    moments = Moments()
    moments.update(features.movedim(1, -1).flatten(0, 2))
    whitening = Whitening(shrinkage)
    whitening.fit(moments)
    after = whitening(features)
    assert after.shape == features.shape
    np.testing.assert_allclose(after.mean((0, 2, 3)).numpy(), 0, atol=1e-3)
    before, after = (f.double().movedim(1, 0).flatten(1).numpy() for f in (features, after))
    return np.cov(before, bias=True), np.cov(after, bias=True)


def test_without_shrinkage_the_covariance_is_the_identity():
    _, after = whitened(0.0)
    np.testing.assert_allclose(after, np.eye(5), atol=2e-2)


@pytest.mark.parametrize("shrinkage", [0.01, 1.0])
def test_shrinkage_adds_its_share_of_the_mean_variance_to_each_direction(shrinkage: float):
    """Oracle: C (C + s I)^-1 for the covariance C, with s the share of its mean eigenvalue."""
    before, after = whitened(shrinkage)
    added = shrinkage * np.trace(before) / 5 * np.eye(5)
    np.testing.assert_allclose(after, before @ np.linalg.inv(before + added), atol=1e-3)


def test_a_constant_channel_stays_finite():
    features = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    features[:, 1] = 7.0
    moments = Moments()
    moments.update(features.movedim(1, -1).flatten(0, 2))
    whitening = Whitening(0.01)
    whitening.fit(moments)
    assert whitening(features).isfinite().all() and whitening(features)[:, 1].abs().max() < 1e-3
