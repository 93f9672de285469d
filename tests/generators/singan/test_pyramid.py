"""The scales of an image, and samples from a trained pyramid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_lite.errors import UserError
from anomalib_lite.generators.singan.pyramid import (
    Scale,
    pyramid_sizes,
    random_noise,
    random_sample,
    reconstruct,
    resize,
    seeded,
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
    with pytest.raises(UserError, match="min_size"):
        pyramid_sizes(400, 40, 0.75, 200, 25)


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


def test_a_higher_start_scale_stays_closer_to_the_image(pyramid):
    """Here every scale adds its noise and nothing else, so that the distance tells how many scales drew any."""

    class Adds(torch.nn.Module):
        def forward(self, noise: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
            return noise + previous

    adding = replace(pyramid, scales=[Scale(s.size, Adds(), s.critic, 0.1) for s in pyramid.scales])
    known = reconstruct(adding)[-1]
    distances = []
    for start in range(5):
        samples = torch.cat([random_sample(adding, start, seeded(i)) for i in range(8)])
        distances.append(float((samples - known).square().mean().sqrt()))
    assert distances == sorted(distances, reverse=True)
    assert distances[4] == pytest.approx(0.1, rel=0.05)


def test_below_the_start_scale_nothing_is_drawn(pyramid, draw):
    """The sample is the finest generator's, on the reconstruction below it and the first noise of the generator."""
    sample = random_sample(pyramid, 4, draw)
    finest, below = pyramid.scales[4], reconstruct(pyramid)[3]
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    previous = torch.nn.functional.interpolate(below, size=(32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
    with torch.no_grad():
        expected = finest.generator(finest.amplitude * noise, previous)
    assert torch.equal(sample, expected)
    with pytest.raises(UserError, match="0 to 4"):
        random_sample(pyramid, 5, draw)


@pytest.mark.parametrize("start_scale", [0, 2])
@pytest.mark.parametrize(("stretch", "size"), [((1.0, 2.0), (32, 64)), ((1.5, 0.75), (48, 24))])
def test_samples_of_any_size(pyramid, draw, start_scale, stretch, size):
    sample = random_sample(pyramid, start_scale, draw, stretch)
    assert tuple(sample.shape) == (1, 3, *size)
    assert sample.isfinite().all()


def test_noise_is_one_for_all_colours_at_the_coarsest_scale_alone(draw):
    coarsest, finer = random_noise(draw, [(30, 40)] * 2, "cpu")
    assert torch.equal(coarsest[:, 0], coarsest[:, 1])
    assert not torch.equal(finer[:, 0], finer[:, 1])
    assert coarsest.shape == finer.shape == (1, 3, 30, 40)


def test_seeds_that_are_close_give_other_noise():
    draws = [torch.randn(3, generator=seeded(*numbers)).tolist() for numbers in ((0, 1), (1, 0), (0, 1, 0), (2,), (3,))]
    assert len({tuple(draw) for draw in draws}) == 5
    assert torch.randn(3, generator=seeded(0, 1)).tolist() == draws[0]
