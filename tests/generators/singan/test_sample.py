"""Random samples: the start scale, and other sizes."""

from __future__ import annotations

import pytest
import torch

from anomalib_lite.errors import UserError
from anomalib_lite.generators.singan.sample import random_sample
from anomalib_lite.generators.singan.scales import (
    Pyramid,
    Scale,
    climb,
    fixed_noise,
    last,
    random_noise,
    reconstruct,
    seeded,
)


def test_a_higher_start_scale_stays_closer_to_the_image(pyramid):
    """Here every scale adds its noise and nothing else, so that the distance tells how many scales drew any."""

    class Adds(torch.nn.Module):
        def forward(self, noise: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
            return noise + previous

    adding = Pyramid(
        pyramid.content, pyramid.real, pyramid.fixed_noise, [Scale(s.size, Adds(), 0.1) for s in pyramid.scales]
    )
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


def test_fixed_noise_gives_the_reconstruction(pyramid):
    with torch.no_grad():
        again = last(climb(pyramid.scales, fixed_noise(pyramid)))
    assert torch.equal(again, reconstruct(pyramid)[-1])
    assert torch.equal(reconstruct(pyramid)[2], reconstruct(pyramid)[2])


@pytest.mark.parametrize("start_scale", [0, 2])
@pytest.mark.parametrize(("stretch", "size"), [((1.0, 2.0), (32, 64)), ((1.5, 0.75), (48, 24))])
def test_samples_of_any_size(pyramid, draw, start_scale, stretch, size):
    sample = random_sample(pyramid, start_scale, draw, stretch)
    assert tuple(sample.shape) == (1, 3, *size)
    assert sample.isfinite().all()


def test_a_start_scale_that_is_none_is_refused(pyramid, draw):
    with pytest.raises(UserError, match="0 to 4"):
        random_sample(pyramid, 5, draw)


def test_noise_is_one_for_all_colours_at_the_coarsest_scale_alone(draw):
    noise = random_noise(draw, torch.device("cpu"))
    coarsest, finer = noise(0, (30, 40)), noise(1, (30, 40))
    assert torch.equal(coarsest[:, 0], coarsest[:, 1])
    assert not torch.equal(finer[:, 0], finer[:, 1])
    assert coarsest.shape == finer.shape == (1, 3, 30, 40)


def test_seeds_that_are_close_give_other_noise():
    draws = [torch.randn(3, generator=seeded(*numbers)).tolist() for numbers in ((0, 1), (1, 0), (0, 1, 0), (2,), (3,))]
    assert len({tuple(draw) for draw in draws}) == 5
    assert torch.randn(3, generator=seeded(0, 1)).tolist() == draws[0]
