"""How many scales an image has, how large they are, and how wide their networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_lite.errors import UserError
from anomalib_lite.generators.singan.pyramid import (
    channels,
    pyramid_sizes,
    resize,
    to_pixels,
    to_tensor,
)


@pytest.mark.parametrize(
    ("image", "max_size", "scales", "coarsest", "finest"),
    [  # counted by hand from the authors' two roundings
        ((250, 250), 250, 11, (25, 25), (250, 250)),
        ((128, 128), 128, 8, (25, 25), (128, 128)),
        ((166, 250), 250, 9, (25, 38), (166, 250)),
        ((250, 166), 250, 9, (38, 25), (250, 166)),
        ((1024, 1024), 250, 10, (25, 25), (250, 250)),
        ((256, 256), 128, 8, (25, 25), (128, 128)),
    ],
)
def test_sizes_of_given_images(image, max_size, scales, coarsest, finest):
    sizes = pyramid_sizes(*image, factor=0.75, max_size=max_size, min_size=25)
    assert (len(sizes), sizes[0], sizes[-1]) == (scales, coarsest, finest)


def test_scales_follow_one_factor_that_is_not_below_the_one_asked_for():
    heights = np.array([height for height, _ in pyramid_sizes(250, 200, 0.75, 250, 25)])
    steps = heights[:-1] / heights[1:]
    assert steps.min() > 0.75
    assert np.ptp(steps) < 0.03  # no more than whole pixels make


def test_an_image_below_the_coarsest_scale_is_refused():
    with pytest.raises(UserError, match="min_size"):
        pyramid_sizes(400, 40, 0.75, 200, 25)


def test_channels_double_every_fourth_scale_up_to_the_most():
    assert [channels(n, 32, 128) for n in range(11)] == [32] * 4 + [64] * 4 + [128] * 3
    assert channels(40, 32, 128) == 128


def test_pixels_survive_the_way_to_the_networks_range_and_back():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1).repeat(1, 1, 3)
    image = to_tensor(pixels)
    assert (float(image.min()), float(image.max())) == (-1, 1)
    assert torch.equal(to_pixels(image), pixels)


def test_an_image_is_reduced_as_another_library_does():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    ours = to_pixels(resize(to_tensor(pixels), (20, 30))).numpy()
    theirs = np.asarray(Image.fromarray(pixels.numpy()).resize((30, 20), Image.Resampling.BICUBIC))
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert torch.equal(to_pixels(resize(to_tensor(pixels), (40, 60))), pixels)


def test_an_enlarged_image_stays_within_the_networks_range():
    edge = torch.cat([-torch.ones(1, 3, 8, 4), torch.ones(1, 3, 8, 4)], dim=3)
    assert resize(edge, (17, 17)).abs().max() == 1
