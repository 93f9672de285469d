"""Frechet and kernel distance against closed forms and a direct double loop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from anomalib_lite.generators.quality.distances import at_equal_sizes, frechet_distance, kernel_distance


def with_moments(mean: np.ndarray, covariance: np.ndarray, n: int, seed: int) -> np.ndarray:
    """(n, C) whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def covariance(seed: int, size: int = 4) -> np.ndarray:
    root = np.random.default_rng(seed).standard_normal((size, size))
    return root @ root.T + 0.1 * np.eye(size)


def test_frechet_distance_of_two_gaussians_with_independent_channels():
    a = with_moments(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]), 50, 0)
    b = with_moments(np.array([3.0, 1.0, 0.0]), np.diag([4.0, 4.0, 1.0]), 80, 1)
    assert frechet_distance(a, b) == pytest.approx((9 + 0 + 4) + (1 + 0 + 4))  # means; differences of the deviations
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, a + np.eye(3)[0]) == pytest.approx(1)


def test_frechet_distance_against_the_matrix_root():
    a, b = with_moments(np.zeros(4), covariance(2), 30, 3), with_moments(np.ones(4), covariance(4), 40, 5)
    first, second = np.cov(a.T), np.cov(b.T)
    expected = 4 + np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(b, a) == pytest.approx(expected)


def test_frechet_distance_with_fewer_images_than_channels():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 64)), rng.standard_normal((6, 64))
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b.astype(np.float32), a.astype(np.float32)), 1e-4)


def direct(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate, term by term."""

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(x):
        values = [kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(values) / len(values)

    return within(a) + within(b) - 2 * sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))


def test_kernel_distance_against_a_double_loop():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 5)), rng.standard_normal((9, 5)) + 0.5
    assert kernel_distance(a, b, rng).value == pytest.approx(direct(a, b))


def test_kernel_distance_is_unbiased_for_few_images_and_its_error_is_the_spread():
    """Of one distribution the mean is 0, of two it is what many images give."""
    rng = np.random.default_rng(0)
    same, apart, errors = [], [], []
    for _ in range(150):
        a, b, c = rng.standard_normal((12, 6)), rng.standard_normal((12, 6)), 1 + rng.standard_normal((12, 6))
        same.append(kernel_distance(a, b, rng).value)
        estimate = kernel_distance(a, c, rng)
        apart.append(estimate.value)
        errors.append(estimate.error)
    many = kernel_distance(rng.standard_normal((2000, 6)), 1 + rng.standard_normal((2000, 6)), rng).value
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(150)
    assert abs(np.mean(apart) - many) < 4 * np.std(apart) / np.sqrt(150) and np.mean(apart) > 10 * abs(np.mean(same))
    assert 0.7 < np.mean(errors) / np.std(apart) < 1.5


def test_the_yardstick_has_sets_of_equal_size():
    rng = np.random.default_rng(0)
    real, alike, other = (rng.standard_normal((n, 8)) for n in (40, 25, 25))
    size, ours, yardstick = at_equal_sizes(frechet_distance, alike, real, rng)
    assert size == 20
    assert ours.value == pytest.approx(yardstick.value, rel=0.3)
    _, far, _ = at_equal_sizes(frechet_distance, other + 2, real, rng)
    assert far.value > 5 * yardstick.value
    assert at_equal_sizes(frechet_distance, alike[:6], real, rng)[0] == 6
