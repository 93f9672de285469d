"""Distances between sets of images against known answers, and what a set is worth beside real images."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from anomalib_lite.data.images import to_float
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.generators.quality import (
    bundled_backbone,
    extract_features,
    frechet_at_equal_sizes,
    frechet_distance,
    kernel_distance,
    measure,
)
from tests.generators.test_structure import product
from tests.generators.tiny import recoloured, shuffled
from tests.made import write_pixels


def with_moments(mean: np.ndarray, covariance: np.ndarray, n: int, seed: int) -> np.ndarray:
    """(n, C) whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(axis=0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_two_gaussians_with_independent_channels():
    a = with_moments(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]), 50, 0)
    b = with_moments(np.array([3.0, 1.0, 0.0]), np.diag([4.0, 4.0, 1.0]), 80, 1)
    assert frechet_distance(a, b) == pytest.approx((9 + 0 + 4) + (1 + 0 + 4))  # means; differences of the deviations
    assert frechet_distance(a, a + np.eye(3)[0]) == pytest.approx(1)


def test_frechet_distance_against_the_matrix_root():
    roots = (np.random.default_rng(seed).standard_normal((4, 4)) for seed in (2, 4))
    first, second = (root @ root.T + 0.1 * np.eye(4) for root in roots)
    a, b = with_moments(np.zeros(4), first, 30, 3), with_moments(np.ones(4), second, 40, 5)
    expected = 4 + np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    assert frechet_distance(a, b) == pytest.approx(expected) == frechet_distance(b, a)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 64)), rng.standard_normal((6, 64))  # fewer images than channels
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b.astype(np.float32), a.astype(np.float32)), 1e-4)


def direct(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate, term by term."""

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(x):
        return np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])

    return within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])


def test_kernel_distance_against_a_double_loop():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 5)), rng.standard_normal((9, 5)) + 0.5
    assert kernel_distance(a, b, rng)[0] == pytest.approx(direct(a, b))


def test_kernel_distance_is_unbiased_for_few_images_and_its_error_is_the_spread():
    """Of one distribution the mean is 0, of two it is what many images give."""
    rng = np.random.default_rng(0)
    same, apart, errors = [], [], []
    for _ in range(150):
        a, b, c = rng.standard_normal((12, 6)), rng.standard_normal((12, 6)), 1 + rng.standard_normal((12, 6))
        same.append(kernel_distance(a, b, rng)[0])
        value, error = kernel_distance(a, c, rng)
        apart.append(value)
        errors.append(error)
    many = kernel_distance(rng.standard_normal((800, 6)), 1 + rng.standard_normal((800, 6)), rng)[0]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(150)
    assert abs(np.mean(apart) - many) < 4 * np.std(apart) / np.sqrt(150) and np.mean(apart) > 10 * abs(np.mean(same))
    assert 0.7 < np.mean(errors) / np.std(apart) < 1.5


def test_the_yardstick_has_sets_of_equal_size():
    rng = np.random.default_rng(0)
    real, alike, other = (rng.standard_normal((n, 8)) for n in (40, 25, 25))
    ours = frechet_at_equal_sizes(alike, real, rng)
    assert ours["images_each"] == 20 and ours["generated"] == pytest.approx(ours["real"], rel=0.3)
    assert frechet_at_equal_sizes(other + 2, real, rng)["generated"] > 5 * ours["real"]
    assert frechet_at_equal_sizes(alike[:6], real, rng)["images_each"] == 6


@torch.no_grad()
def test_distances_between_images_and_their_pooled_features_whatever_the_batch():
    net, rng = bundled_backbone(), np.random.default_rng(0)
    shown = [np.kron(rng.integers(0, 255, (4, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8) for _ in range(10)]
    shown.append(shown[0])
    pooled, distances = extract_features(shown, net)
    layers = [[level.numpy()[0] for level in net(to_float(image[None]))] for image in shown]
    units = [[level / np.linalg.norm(level, axis=0, keepdims=True) for level in levels] for levels in layers]
    expected = [
        np.mean([((p - q) ** 2).sum(0).mean() for p, q in zip(*ab, strict=True)]) for ab in combinations(units, 2)
    ]
    np.testing.assert_allclose(distances, expected, atol=1e-5)
    assert distances[9] == pytest.approx(0, abs=1e-5) and np.delete(distances, 9).min() > 0.05
    np.testing.assert_allclose(pooled, [levels[-1].mean(axis=(1, 2)) for levels in layers], rtol=1e-4, atol=1e-5)
    assert pooled.shape == (11, 320) and len(extract_features(shown[10:], net)[1]) == 0


STRUCTURE = {"edge_overlap": [0.9, 1.0], "ssim": [0.5, 0.7]}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, list[Sample]]:
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    real, others = ([product(seed, 64) for seed in seeds] for seeds in (range(24), range(100, 116)))
    good, torn = [recoloured(image, rng, 0.1) for image in others], [shuffled(image, rng) for image in others]
    images = {"real": real, "good": good, "torn": torn, "one": [others[0]] * 16}
    return {
        name: [
            Sample(write_pixels(folder / f"{name}/{i}.png", image[..., ::-1]), OK) for i, image in enumerate(several)
        ]
        for name, several in images.items()
    }


def test_good_images_measure_like_real_ones_and_bad_ones_do_not(sets):
    good, torn, one = (
        measure(sets["real"], sets[name], (64, 64), STRUCTURE, seed=0) for name in ("good", "torn", "one")
    )
    yardstick = good["frechet"]["real"]
    assert good["frechet"]["generated"] < 1.5 * yardstick < torn["frechet"]["generated"] / 1.3
    kernel = torn["kernel"]
    assert kernel["generated"] > 3 * max(kernel["generated_se"], good["kernel"]["generated"], kernel["real_se"])
    assert abs(kernel["real"]) < 4 * kernel["real_se"]
    assert one["diversity"]["generated"] == pytest.approx(0, abs=1e-4)
    assert 0.6 < good["diversity"]["generated"] / good["diversity"]["real"] < 1.5
    assert good["n_real"] == 24 and good["n_generated"] == 16 and good["frechet"]["images_each"] == 12
    assert good["edge_overlap"]["generated"] == pytest.approx(0.95) and good["missing"] == {}
    assert 0.5 < good["edge_overlap"]["real_pairs_low"] < good["edge_overlap"]["real_pairs"] < 1
    json.dumps(good, allow_nan=False)


def test_few_images_have_what_can_be_measured_and_reasons_for_the_rest(sets):
    report = measure(sets["real"][:1], sets["good"][:1], (64, 64), STRUCTURE, seed=0)
    assert report["frechet"] is None and report["kernel"] is None
    assert report["diversity"] == {"generated": None, "real": None} and report["ssim"]["real_pairs"] is None
    assert "there are 1 real and 1 generated ones" in report["missing"]["frechet"]
    assert {"kernel", "diversity.real", "diversity.generated", "real_pairs"} <= report["missing"].keys()
    few, again = (measure(sets["real"][:5], sets["good"][:5], (64, 64), STRUCTURE, seed=0) for _ in range(2))
    assert few["kernel"]["generated"] is not None and few["kernel"]["real"] is None and "kernel.real" in few["missing"]
    assert few == again
