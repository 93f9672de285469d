"""The networks of a scale, and the penalty against values computed by hand and finite differences."""

import pytest
import torch
from torch import nn

from anomalib_lite.generators.singan.pyramid import Critic, ScaleGenerator, gradient_penalty, initialise


@pytest.mark.parametrize(
    ("width", "generator", "critic"),
    [  # 3 x 3 weights, biases, and two numbers a batch-norm channel: first block, three within, last convolution
        (32, 960 + 3 * 9_312 + 867, 960 + 3 * 9_312 + 289),
        (128, 3_840 + 3 * 147_840 + 3_459, 3_840 + 3 * 147_840 + 1_153),
    ],
)
def test_parameter_counts(width, generator, critic):
    counts = [sum(p.numel() for p in network.parameters()) for network in (ScaleGenerator(width), Critic(width))]
    assert counts == [generator, critic]


def test_the_generator_keeps_the_size_and_the_critic_loses_five_pixels_a_side():
    image = torch.zeros(2, 3, 25, 31)
    assert ScaleGenerator(8)(image, image).shape == (2, 3, 25, 31)
    assert Critic(8)(image).shape == (2, 1, 15, 21)


def test_the_layers_are_those_of_the_paper():
    layers = [m for m in ScaleGenerator(8).modules() if not list(m.children())]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert [type(layer) for layer in layers] == [*block * 4, nn.Conv2d, nn.Tanh]
    assert all(layer.padding == (0, 0) and layer.stride == (1, 1) for layer in layers if isinstance(layer, nn.Conv2d))
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.2}


def test_a_pixel_sees_noise_and_image_alike_eleven_pixels_wide():
    network = ScaleGenerator(8).eval()
    initialise(network, torch.Generator().manual_seed(0))
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
    initialise(network, torch.Generator().manual_seed(0))
    convolution, norm = network.body[1][0], network.body[1][1]
    assert float(convolution.weight.detach().std()) == pytest.approx(0.02, rel=0.03)
    assert float(norm.weight.detach().mean()) == pytest.approx(1, abs=0.01)
    assert not convolution.bias.any()


def test_penalty_of_a_linear_critic():
    """Its gradient over the colours is (2, -1, 2), of length 3, at every pixel: (3 - 1)^2."""
    slope = torch.tensor([2.0, -1.0, 2.0]).view(1, 3, 1, 1)
    real, fake = torch.rand(1, 3, 4, 5), torch.rand(1, 3, 4, 5)
    value = gradient_penalty(lambda x: (slope * x).sum(1, keepdim=True), real, fake, torch.tensor(0.3))
    assert value.item() == pytest.approx(4.0, rel=1e-5)


def test_penalty_lies_between_the_images_at_the_share_given():
    """The gradient of |x|^2 / 2 is x itself: at 0.25 real (1, 0, 0) and 0.75 fake (0, 0, 0) it has the length 0.25."""
    real = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    value = gradient_penalty(lambda x: x.square().sum() / 2, real, torch.zeros_like(real), torch.tensor(0.25))
    assert value.item() == pytest.approx((0.25 - 1) ** 2)
