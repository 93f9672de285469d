"""Sizes, widths and parameters against the published ones; what reaches the output and what does not."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from anomalib_lite.generators.histaugan import Architecture
from anomalib_lite.generators.histaugan.networks import Networks

OFFICIAL = Architecture(
    channels=64, attributes=8, discriminator_channels=64, discriminator_layers=6, attribute_init=0.02
)
SMALL = Architecture(
    channels=4, attributes=8, content_blocks=1, decoder_blocks=1, discriminator_channels=4, discriminator_layers=6
)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module", params=[1, 2])
def official(request: pytest.FixtureRequest) -> Networks:
    with torch.device("meta"):
        return Networks(OFFICIAL, request.param, (216, 216))


def test_totals_of_the_official_code() -> None:
    """Counted once in the authors' networks, built for 216 x 216 and one or two domains."""
    with torch.device("meta"):
        one, two = (Networks(OFFICIAL, domains, (216, 216)) for domains in (1, 2))
    assert [count(part) for part in (one.content, one.attribute, one.decoder)] == [5099136, 1345104, 5402231]
    assert count(one.encoded_discriminator) == 15719040
    assert [count(part) for part in (two.content, two.attribute)] == [5099136, 1345104 + 16 * 64]
    assert one.content_discriminator is None
    assert count(two.content_discriminator) == 10683649 + 257


def test_shapes_at_the_official_crop(official: Networks) -> None:
    image, domain = torch.zeros(2, 3, 216, 216, device="meta"), torch.zeros(2, official.domains, device="meta")
    content = official.content(image)
    mean, log_variance = official.attribute(image, domain)
    assert content.shape == (2, 256, 54, 54)
    assert mean.shape == log_variance.shape == (2, 8)
    assert official.decoder(content, mean, domain).shape == image.shape
    real, named = official.encoded_discriminator(image)
    assert real.shape == (2, 1, 4, 4) and named.shape == (2, official.domains)
    if official.content_discriminator is not None:
        assert sum(isinstance(m, nn.Conv2d) for m in official.content_discriminator.modules()) == 5
        assert official.content_discriminator.body[:-1](content).shape == (2, 256, 1, 1)  # one position is left
        assert official.content_discriminator(content).shape == (2, 2)


@pytest.mark.parametrize("crop", [(32, 32), (36, 48), (64, 64), (96, 96), (128, 96), (256, 256)])
def test_any_crop_fits(crop: tuple[int, int]) -> None:
    networks = Networks(SMALL, 2, crop)
    image, domain = torch.rand(3, 3, *crop), networks.one_hot(torch.tensor([0, 1, 0]))
    content = networks.content(image)
    assert networks.content_discriminator(content).shape == (3, 2)
    real, named = networks.random_discriminator(image)
    assert real.shape[:2] == (3, 1) and named.shape == (3, 2)
    assert networks.decoder(content, networks.attribute(image, domain)[0], domain).shape == image.shape


@pytest.mark.parametrize("size", [(33, 50), (64, 64), (48, 35)])
def test_the_domain_and_the_attribute_reach_images_of_any_size(size: tuple[int, int]) -> None:
    networks = Networks(SMALL, 2, (32, 32)).eval()
    image, z = torch.rand(1, 3, *size), torch.zeros(1, 8)
    made = [networks.translate(image, z, torch.tensor([d])) for d in (0, 1)]
    assert made[0].shape == image.shape and made[0].min() >= 0 and made[0].max() <= 1
    assert not torch.allclose(made[0], made[1], atol=1e-6)
    codes = [networks.encode(image, torch.tensor([d])) for d in (0, 1)]
    assert not torch.allclose(codes[0], codes[1], atol=1e-6)
    other = networks.translate(image, z + 1, torch.tensor([0]))
    assert not torch.allclose(made[0], other, atol=1e-6)


def test_the_contents_noise_is_standard_normal_and_for_training_alone() -> None:
    networks = Networks(SMALL, 1, (64, 64))
    image = torch.rand(4, 3, 64, 64)
    plain = networks.content(image)
    noisy = [networks.content(image, torch.Generator().manual_seed(seed)) - plain for seed in (1, 1, 2)]
    assert noisy[0].mean().abs() < 0.03 and (noisy[0].std() - 1).abs() < 0.03
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2])
    assert torch.equal(plain, networks.content(image))


def test_content_forgets_brightness_and_contrast_of_wide_features() -> None:
    """Instance norm: after the first strided layer, no channel carries its mean any more."""
    networks = Networks(SMALL, 1, (64, 64))
    nn.init.kaiming_normal_(networks.content[2].weight)
    nn.init.kaiming_normal_(networks.content[0].weight)
    features = nn.Sequential(*list(networks.content)[:4])(torch.rand(2, 3, 64, 64))
    assert features.mean(dim=(2, 3)).abs().max() < 1e-5
    assert (features.std(dim=(2, 3), correction=0) - 1).abs().max() < 0.05


def test_narrow_networks_let_the_attribute_through_from_the_start() -> None:
    """With DRIT's std of 0.02 the encoder of a narrow network answers the same to every image."""
    images = torch.rand(8, 3, 32, 32) * torch.rand(8, 3, 1, 1)
    domain = torch.zeros(8, dtype=torch.long)
    fixed, he = (Networks(replace(SMALL, attribute_init=std), 1, (32, 32), 0) for std in (0.02, None))
    assert abs(fixed.encoded_discriminator.body[-2].weight.std() - 0.02) < 0.001
    spreads = [networks.encode(images, domain).std(dim=0).mean().item() for networks in (fixed, he)]
    assert spreads[0] < 1e-3 < 0.03 < spreads[1]
