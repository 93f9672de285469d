"""Edges and luminance compared, and which images are kept for their structure."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import ColorJitter

from anomalib_lite.errors import UserError
from anomalib_lite.generators.structure import (
    edge_overlap,
    edges,
    fit_guard,
    luminance_ssim,
    rephotographed,
    with_swapped_parts,
)
from anomalib_lite.rendering.product import draw_conditions, render_product
from tests.generators.tiny import recoloured, shuffled


def product(seed: int = 0, size: int = 128) -> np.ndarray:
    return render_product(size, seed, None, None, draw_conditions(seed, 1.0)).image


def jittered(image: np.ndarray, seed: int) -> np.ndarray:
    torch.manual_seed(seed)
    return ColorJitter(0.3, 0.3, 0.3, 0.1)(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()


def test_an_image_keeps_its_structure_under_colour_light_and_noise_and_loses_it_when_shuffled():
    for seed in range(4):
        image, rng = product(seed), np.random.default_rng(seed)
        noisy = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        assert edge_overlap(image, image) == 1 == pytest.approx(luminance_ssim(image, image))
        assert edge_overlap(image, (image * 0.6).astype(np.uint8)) > 0.95
        assert edge_overlap(image, jittered(image, seed)) > 0.95
        assert edge_overlap(image, noisy) > 0.9
        assert edge_overlap(image, shuffled(image, rng)) < 0.7
        assert luminance_ssim(image, jittered(image, seed)) > luminance_ssim(image, shuffled(image, rng))


def square(ground: int = 0, colour: Any = 200, width: int = 64) -> np.ndarray:
    image = np.full((64, width, 3), ground, np.uint8)
    image[16:48, 16:48] = colour
    return image


def test_a_shift_counts_from_the_tolerance_on():
    image = square()
    overlaps = [edge_overlap(image, np.roll(image, shift, axis=1)) for shift in (1, 2, 12)]
    assert overlaps[:2] == [1, 1] and 0.2 < overlaps[2] < 0.75  # the horizontal edges still lie on each other
    assert edge_overlap(image, np.roll(image, 4, axis=(0, 1))) < 0.2


def test_the_measure_is_the_f_measure_of_both_directions():
    """Two squares against one: all of the one's edges are met, half of the two's; F = 2 * 1 * 0.5 / 1.5."""
    one = square(width=128)
    two = np.maximum(one, np.roll(one, 64, axis=1))
    assert edge_overlap(one, two) == edge_overlap(two, one) == pytest.approx(2 / 3, abs=0.01)


def test_images_without_edges_and_edges_between_colours_of_one_lightness():
    flat, coloured = square(120, 120), square(120, (180, 90, 120))  # the luminance of the ground, by and large
    noise = np.clip(flat + np.random.default_rng(0).normal(0, 2, flat.shape), 0, 255).astype(np.uint8)
    assert edge_overlap(flat, noise) == 1 and not edges(noise).any()
    assert edge_overlap(flat, coloured) == 0 and edges(coloured).sum() > 100


def test_dense_edges_that_run_another_way_do_not_match():
    """Every stripe lies within the tolerance of one that crosses it."""
    stripes = np.tile(np.repeat([40, 200], 5), (100, 10))[..., None].repeat(3, axis=2).astype(np.uint8)
    assert edge_overlap(stripes, stripes) == 1 == edge_overlap(stripes, 240 - stripes)
    assert edge_overlap(stripes, stripes.swapaxes(0, 1)) < 0.2


@pytest.fixture(scope="module")
def real() -> list[np.ndarray]:
    return [product(seed, 64) for seed in range(8)]


def test_damaged_images_are_dropped_and_recoloured_ones_kept(real):
    guard, rng = fit_guard(real, 0.01, seed=0), np.random.default_rng(0)
    for image in [product(100 + seed, 64) for seed in range(6)]:
        assert guard.keeps(edge_overlap(image, image))
        assert guard.keeps(edge_overlap(recoloured(image, rng, 0.3), image))
        kept = guard.keeps(edge_overlap(shuffled(recoloured(image, rng), rng), image))
        assert not kept and type(kept) is bool  # it is written into a table
    assert 0.7 < guard.threshold < 1 and guard.caught > 0.8
    assert fit_guard(real, 0.01, seed=0) == guard


def test_the_threshold_loses_about_the_share_that_was_asked_for(real):
    strict, loose = fit_guard(real, 0.2, seed=0), fit_guard(real, 0.01, seed=0)
    assert strict.threshold > loose.threshold and strict.caught >= loose.caught
    rng = np.random.default_rng(7)
    fresh = [edge_overlap(image, rephotographed(image, rng)) for image in real for _ in range(12)]
    assert np.mean([not strict.keeps(overlap) for overlap in fresh]) == pytest.approx(0.2, abs=0.1)
    assert np.mean([not loose.keeps(overlap) for overlap in fresh]) < 0.06


def test_one_image_is_enough_and_no_structure_is_said(real):
    assert 0.5 < fit_guard(real[:1], 0.01, seed=0).threshold < 1
    assert fit_guard([square(90 + i, 90 + i) for i in range(4)], 0.01, seed=0).caught == 0


def test_sizes_must_agree_and_no_image_cannot_be_learned_from():
    with pytest.raises(ValueError, match="different sizes"):
        edge_overlap(product(), product()[:64])
    with pytest.raises(UserError, match="there are none"):
        fit_guard([], 0.01, seed=0)


def test_copies_are_images_of_the_same_size_and_parts_change_places(real):
    image, rng = real[0][:60, :63], np.random.default_rng(0)
    copy, damaged = rephotographed(image, rng), with_swapped_parts(image, rng)
    assert copy.shape == damaged.shape == image.shape and copy.dtype == damaged.dtype == np.uint8
    assert 0.1 < np.any(damaged != image, axis=2).mean() <= 2 / 9 + 0.01
    assert np.array_equal(np.sort(damaged.reshape(-1)), np.sort(image.reshape(-1)))
