"""The networks of a scale and their penalty, the scales of an image, and samples from a trained pyramid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from anomalib_lite.errors import UserError
from anomalib_lite.generators.singan.pyramid import (
    Critic,
    Scale,
    ScaleGenerator,
    gradient_penalty,
    initialise,
    pyramid_sizes,
    random_noise,
    resize,
    seeded,
    to_pixels,
    to_tensor,
)


def test_parameter_counts():
    """3 x 3 weights, biases, and two numbers a batch-norm channel: first block, three within, last convolution."""
    counts = [
        sum(p.numel() for p in kind(width).parameters()) for width in (32, 128) for kind in (ScaleGenerator, Critic)
    ]
    assert counts[:2] == [960 + 3 * 9_312 + 867, 960 + 3 * 9_312 + 289]
    assert counts[2:] == [3_840 + 3 * 147_840 + 3_459, 3_840 + 3 * 147_840 + 1_153]


def test_the_layers_are_those_of_the_paper_and_the_critic_loses_five_pixels_a_side():
    layers = [m for m in ScaleGenerator(8).modules() if not list(m.children())]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert [type(layer) for layer in layers] == [*block * 4, nn.Conv2d, nn.Tanh]
    assert all(layer.padding == (0, 0) and layer.stride == (1, 1) for layer in layers if isinstance(layer, nn.Conv2d))
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.2}
    assert Critic(8)(torch.zeros(2, 3, 25, 31)).shape == (2, 1, 15, 21)


def test_a_pixel_sees_noise_and_image_alike_eleven_pixels_wide():
    network = ScaleGenerator(8).eval()
    initialise(network, seeded(0))
    noise, previous = (torch.zeros(1, 3, 31, 31, requires_grad=True) for _ in range(2))
    network(noise, previous)[0, 0, 15, 15].backward()
    seen = noise.grad[0].abs().sum(0) > 0
    rows, columns = (torch.nonzero(seen.any(dim)).flatten().tolist() for dim in (1, 0))
    assert rows == columns == list(range(10, 21))
    skip = torch.zeros_like(noise)
    skip[0, 0, 15, 15] = 1
    assert torch.allclose(previous.grad, noise.grad + skip)


def test_weights_are_drawn_as_the_paper_has_them():
    network = Critic(64)
    initialise(network, seeded(0))
    convolution, norm = network.body[1][0], network.body[1][1]
    assert float(convolution.weight.detach().std()) == pytest.approx(0.02, rel=0.03)
    assert float(norm.weight.detach().mean()) == pytest.approx(1, abs=0.01)
    assert not convolution.bias.any()


def test_penalty_of_critics_whose_gradient_is_known():
    """A linear critic's over the colours is (2, -1, 2), of length 3, at every pixel. That of |x|^2 / 2 is x itself."""
    slope = torch.tensor([2.0, -1.0, 2.0]).view(1, 3, 1, 1)
    real, fake = torch.rand(1, 3, 4, 5), torch.rand(1, 3, 4, 5)
    value = gradient_penalty(lambda x: (slope * x).sum(1, keepdim=True), real, fake, torch.tensor(0.3))
    assert value.item() == pytest.approx((3 - 1) ** 2, rel=1e-5)
    real = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    value = gradient_penalty(lambda x: x.square().sum() / 2, real, torch.zeros_like(real), torch.tensor(0.25))
    assert value.item() == pytest.approx((0.25 - 1) ** 2)  # the mixture has a quarter of the real image


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
    assert steps.min() > 0.75 and np.ptp(steps) < 0.03  # no more than whole pixels make


def test_an_image_is_reduced_as_another_library_does_and_pixels_survive_the_way_to_the_networks():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    pixels[:16, :16] = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1)
    image = to_tensor(pixels)
    assert (float(image.min()), float(image.max())) == (-1, 1)
    assert torch.equal(to_pixels(resize(image, (40, 60))), pixels)
    theirs = np.asarray(Image.fromarray(pixels.numpy()).resize((30, 20), Image.Resampling.BICUBIC))
    assert np.abs(to_pixels(resize(image, (20, 30))).numpy().astype(int) - theirs).max() <= 1
    edge = torch.cat([-torch.ones(1, 3, 8, 4), torch.ones(1, 3, 8, 4)], dim=3)
    assert resize(edge, (17, 17)).abs().max() == 1  # enlarged, it stays within the networks' range


def test_a_higher_start_scale_stays_closer_to_the_image(pyramid):
    """Here every scale adds its noise and nothing else, so that the distance tells how many scales drew any."""
    adding = replace(pyramid, scales=[Scale(scale.size, 1, 0.1) for scale in pyramid.scales])
    for scale in adding.scales:
        scale.generator.forward = lambda noise, previous: noise + previous
    known, distances = adding.reconstruct()[-1], []
    for start in range(5):
        samples = torch.cat([adding.sample(start, seeded(i)) for i in range(8)])
        distances.append(float((samples - known).square().mean().sqrt()))
    assert distances == sorted(distances, reverse=True)
    assert distances[4] == pytest.approx(0.1, rel=0.05)


def test_below_the_start_scale_nothing_is_drawn(pyramid):
    """The sample is the finest generator's, on the reconstruction below it and the first noise of the generator."""
    finest, below = pyramid.scales[4], pyramid.reconstruct()[3]
    noise = torch.randn(1, 3, 32, 32, generator=seeded(0))
    previous = torch.nn.functional.interpolate(below, size=(32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
    with torch.no_grad():
        expected = finest.generator(finest.amplitude * noise, previous)
    assert torch.equal(pyramid.sample(4, seeded(0)), expected)
    with pytest.raises(UserError, match="0 to 4"):
        pyramid.sample(5, seeded(0))


@pytest.mark.parametrize("start_scale", [0, 2])
@pytest.mark.parametrize(("stretch", "size"), [((1.0, 2.0), (32, 64)), ((1.5, 0.75), (48, 24))])
def test_samples_of_any_size(pyramid, start_scale, stretch, size):
    sample = pyramid.sample(start_scale, seeded(0), stretch)
    assert tuple(sample.shape) == (1, 3, *size) and sample.isfinite().all()


def test_noise_is_one_for_all_colours_at_the_coarsest_scale_alone_and_close_seeds_give_other_noise():
    coarsest, finer = random_noise(seeded(0), [(30, 40)] * 2, "cpu")
    assert torch.equal(coarsest[:, 0], coarsest[:, 1]) and not torch.equal(finer[:, 0], finer[:, 1])
    assert coarsest.shape == finer.shape == (1, 3, 30, 40)
    draws = [torch.randn(3, generator=seeded(*numbers)).tolist() for numbers in ((0, 1), (1, 0), (0, 1, 0), (2,), (3,))]
    assert len({tuple(draw) for draw in draws}) == 5
    assert torch.randn(3, generator=seeded(0, 1)).tolist() == draws[0]
