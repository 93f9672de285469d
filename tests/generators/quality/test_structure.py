"""Edges agree where the structure does, and colour and light change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import ColorJitter

from anomalib_lite.generators.quality.structure import edge_overlap, edges, luminance_ssim
from anomalib_lite.rendering.product import draw_conditions, render_product


def product(seed: int = 0, size: int = 128) -> np.ndarray:
    return render_product(size, seed, None, None, draw_conditions(seed, 1.0)).image


def jittered(image: np.ndarray, seed: int) -> np.ndarray:
    torch.manual_seed(seed)
    return ColorJitter(0.3, 0.3, 0.3, 0.1)(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()


def shuffled(image: np.ndarray, seed: int, n: int = 4) -> np.ndarray:
    side = image.shape[0] // n
    order = np.random.default_rng(seed).permutation(n * n)
    blocks = image.reshape(n, side, n, side, 3).swapaxes(1, 2).reshape(n * n, side, side, 3)[order]
    return blocks.reshape(n, n, side, side, 3).swapaxes(1, 2).reshape(image.shape)


def test_an_image_keeps_its_structure_under_colour_light_and_noise_and_loses_it_when_shuffled():
    for seed in range(4):
        image = product(seed)
        noisy = np.clip(image + np.random.default_rng(seed).normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        assert edge_overlap(image, image) == 1
        assert edge_overlap(image, (image * 0.6).astype(np.uint8)) > 0.95
        assert edge_overlap(image, jittered(image, seed)) > 0.95
        assert edge_overlap(image, noisy) > 0.9
        assert edge_overlap(image, shuffled(image, seed)) < 0.7


def test_a_shift_counts_from_the_tolerance_on():
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48, 16:48] = 200
    for shift, expected in ((1, 1.0), (2, 1.0), (12, None)):
        overlap = edge_overlap(image, np.roll(image, shift, axis=1))
        assert overlap == expected if expected else 0.2 < overlap < 0.75  # the horizontal edges still lie on each other
    assert edge_overlap(image, np.roll(image, 4, axis=(0, 1)), tolerance_px=2) < 0.2
    assert edge_overlap(image, np.roll(image, 4, axis=(0, 1)), tolerance_px=6) == 1


def test_the_measure_is_the_f_measure_of_both_directions():
    """Two squares against one: all of the one's edges are met, half of the two's; F = 2 * 1 * 0.5 / 1.5."""
    one = np.zeros((64, 128, 3), np.uint8)
    one[16:48, 16:48] = 200
    two = one.copy()
    two[16:48, 80:112] = 200
    assert edge_overlap(one, two) == edge_overlap(two, one) == pytest.approx(2 / 3, abs=0.01)


def test_images_without_edges_and_edges_between_colours_of_one_lightness():
    flat = np.full((64, 64, 3), 120, np.uint8)
    noise = np.clip(flat + np.random.default_rng(0).normal(0, 2, flat.shape), 0, 255).astype(np.uint8)
    square = flat.copy()
    square[16:48, 16:48] = (180, 90, 120)  # the luminance of the ground, by and large
    assert edge_overlap(flat, noise) == 1 and not edges(noise).any()
    assert edge_overlap(flat, square) == 0
    assert edges(square).sum() > 100


def test_sizes_must_agree_and_ssim_falls_with_light_that_differs():
    image = product()
    with pytest.raises(ValueError, match="different sizes"):
        edge_overlap(image, image[:64])
    assert luminance_ssim(image, image) == pytest.approx(1)
    assert luminance_ssim(image, jittered(image, 1)) > luminance_ssim(image, shuffled(image, 1))


def test_dense_edges_that_run_another_way_do_not_match():
    """Every stripe lies within the tolerance of one that crosses it."""
    stripes = np.repeat(np.tile(np.repeat([40, 200], 5), 10)[None, :, None], 100, axis=0).repeat(3, axis=2)
    stripes = stripes.astype(np.uint8)
    assert edge_overlap(stripes, stripes) == 1 == edge_overlap(stripes, 240 - stripes)
    assert edge_overlap(stripes, stripes.swapaxes(0, 1)) < 0.2
