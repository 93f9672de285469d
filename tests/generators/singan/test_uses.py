"""Harmonisation, editing, painting, super-resolution and animation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from anomalib_lite.errors import UserError
from anomalib_lite.generators.singan.pyramid import to_pixels
from anomalib_lite.generators.singan.scales import Pyramid, Scale, reconstruct
from anomalib_lite.generators.singan.uses import animate, edit, harmonise, paint_to_image, super_resolve


@pytest.fixture
def image(pyramid: Pyramid) -> np.ndarray:
    return to_pixels(pyramid.real).numpy()


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((32, 32), bool)
    mask[2:6, 2:6] = True
    return mask


@pytest.fixture
def blank(pyramid: Pyramid) -> Pyramid:
    """The pyramid with generators that add nothing: what comes in goes out, upsampled."""

    class Nothing(torch.nn.Module):
        def forward(self, noise, previous):
            return previous

    scales = [Scale(scale.size, Nothing(), scale.amplitude) for scale in pyramid.scales]
    return Pyramid(pyramid.image, pyramid.real, pyramid.fixed_noise, scales)


@pytest.mark.parametrize("use", [harmonise, edit])
def test_the_image_stays_far_from_the_mask_and_changes_within(use, pyramid, image, mask, draw):
    pasted = image.copy()
    pasted[mask] = 255 - pasted[mask]
    made = use(pyramid, pasted, mask, 2, draw)
    assert made.dtype == np.uint8
    assert np.array_equal(made[24:, 24:], image[24:, 24:])
    assert (made[mask] != image[mask]).any()


def test_editing_reaches_further_than_harmonisation(blank, mask, draw):
    black = np.zeros((32, 32, 3), np.uint8)
    given = to_pixels(blank.real).numpy().astype(int)
    changed = [(np.abs(use(blank, black, mask, 2, draw) - given) > 2).sum() for use in (harmonise, edit)]
    assert changed[0] < changed[1]


def test_inside_the_mask_is_what_the_pyramid_made_of_the_image(blank, draw):
    grey = np.full((64, 64, 3), 90, np.uint8)
    made = harmonise(blank, grey, np.ones((64, 64), bool), 3, draw)
    assert made.shape == (32, 32, 3)
    assert np.abs(made.astype(int) - 90).max() <= 1


def test_painting_comes_in_below_the_start_scale(blank, draw):
    """Detail finer than the scale below the start is lost, coarse detail stays."""
    coarse = np.zeros((32, 32, 3), np.uint8)
    coarse[:, 16:] = 200
    fine = np.where(np.indices((32, 32)).sum(0)[..., None] % 2, 200, 0).astype(np.uint8).repeat(3, 2)
    assert np.abs(paint_to_image(blank, coarse, 1, draw)[:, 28:].astype(int) - 200).max() <= 4
    assert paint_to_image(blank, fine, 1, draw).std() < 0.3 * fine.std()


def test_a_drawing_takes_on_the_pyramids_detail(pyramid, draw):
    flat = np.full((32, 32, 3), 120, np.uint8)
    made = [paint_to_image(pyramid, flat, start, draw) for start in (1, 4)]
    assert made[0].shape == (32, 32, 3)
    assert not np.array_equal(*made)


@pytest.mark.parametrize("start", [0, 5, -1])
def test_images_come_in_at_scale_one_or_higher(pyramid, image, draw, start):
    with pytest.raises(UserError, match="start_scale"):
        paint_to_image(pyramid, image, start, draw)


@pytest.mark.parametrize(("factor", "size"), [(2.0, 64), (4.0, 128), (1.1, 35)])
def test_super_resolution_lands_on_the_factor(pyramid, draw, factor, size):
    assert super_resolve(pyramid, factor, draw).shape == (size, size, 3)


def test_super_resolution_without_detail_is_upsampling(blank, image, draw):
    again = super_resolve(blank, 2.0, draw).reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(again - image).mean() < 8


def test_super_resolution_only_enlarges(pyramid, draw):
    with pytest.raises(UserError, match="above 1"):
        super_resolve(pyramid, 1.0, draw)


def test_an_animation_walks_in_small_steps_around_the_image(pyramid, draw):
    frames = [frame.astype(float) for frame in animate(pyramid, 6, 1, draw)]
    assert len(frames) == 6
    steps = [np.abs(a - b).mean() for a, b in pairwise(frames)]
    assert 0 < max(steps) < np.abs(frames[0] - frames[0].mean()).mean()


def test_an_animation_bound_to_the_image_stands_still(pyramid, draw):
    known = to_pixels(reconstruct(pyramid)[-1]).numpy()
    still = list(animate(pyramid, 3, 0, draw, alpha=1.0))
    assert all(np.array_equal(frame, known) for frame in still)
