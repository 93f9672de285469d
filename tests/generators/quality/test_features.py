"""Perceptual distances against loops over layers and positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomalib_lite.data.images import to_float
from anomalib_lite.generators.quality.features import bundled_backbone, look_at


@pytest.fixture(scope="module")
def net():
    return bundled_backbone()


def images(n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.kron(rng.integers(0, 255, (4, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8) for _ in range(n)]


@torch.no_grad()
def apart(net, one: np.ndarray, other: np.ndarray) -> float:
    layers = zip(*(net(to_float(image[None])) for image in (one, other)), strict=True)
    distances = []
    for a, b in layers:
        a, b = (f[0].numpy() / np.linalg.norm(f[0].numpy(), axis=0, keepdims=True) for f in (a, b))
        distances.append(((a - b) ** 2).sum(axis=0).mean())
    return float(np.mean(distances))


def test_distances_between_images_and_their_pooled_features(net):
    shown = images(3)
    seen = look_at([*shown, shown[0]], net)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    expected = [apart(net, *([*shown, shown[0]][i] for i in pair)) for pair in pairs]
    np.testing.assert_allclose(seen.apart, expected, atol=1e-5)
    assert seen.apart[2] == pytest.approx(0, abs=1e-5) and min(seen.apart[[0, 1, 3]]) > 0.05
    with torch.no_grad():
        last = net(to_float(shown[1][None]))[-1]
    np.testing.assert_allclose(seen.pooled[1], last.mean(dim=(2, 3))[0], rtol=1e-4, atol=1e-5)
    assert seen.pooled.shape == (4, 320)


def test_batches_change_nothing_and_one_image_has_no_pairs(net):
    shown = images(11, seed=1)
    whole, single = look_at(shown, net), look_at(shown[10:], net)
    np.testing.assert_allclose(whole.pooled[10:], single.pooled, rtol=1e-3, atol=1e-4)
    assert len(whole.apart) == 55 and len(single.apart) == 0
