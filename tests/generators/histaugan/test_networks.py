"""Sizes, widths and parameters against the published ones; what reaches the output and what does not."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from anomalib_lite.generators.histaugan import Architecture
from anomalib_lite.generators.histaugan.networks import Networks
from tests.generators.conftest import TINY

OFFICIAL = Architecture(
    channels=64, attributes=8, discriminator_channels=64, discriminator_layers=6, attribute_init=0.02
)
SMALL = replace(TINY, attributes=8, discriminator_layers=6)


@pytest.mark.parametrize("domains", [1, 2])
def test_totals_and_shapes_of_the_official_code(domains: int) -> None:
    """Counted once in the authors' networks, built for 216 x 216 and one or two domains."""
    with torch.device("meta"):
        networks = Networks(OFFICIAL, domains, (216, 216))
        image, domain = torch.zeros(2, 3, 216, 216), torch.zeros(2, domains)
    counted = (networks.content, networks.attribute, networks.decoder, networks.encoded_discriminator)
    totals = [sum(p.numel() for p in part.parameters()) for part in counted]
    assert totals[:2] == [5099136, 1345104 + 16 * 64 * (domains - 1)]
    assert domains > 1 or totals[2:] == [5402231, 15719040]
    content, (mean, log_variance) = networks.content(image), networks.attribute(image, domain)
    assert content.shape == (2, 256, 54, 54) and mean.shape == log_variance.shape == (2, 8)
    assert networks.decoder(content, mean, domain).shape == image.shape
    real, named = networks.encoded_discriminator(image)
    assert real.shape == (2, 1, 4, 4) and named.shape == (2, domains)
    judge = networks.content_discriminator
    assert (judge is None) == (domains == 1)
    if judge is not None:
        assert sum(p.numel() for p in judge.parameters()) == 10683649 + 257
        assert sum(isinstance(m, nn.Conv2d) for m in judge.modules()) == 5
        assert judge.body[:-1](content).shape == (2, 256, 1, 1)  # one position is left
        assert judge(content).shape == (2, 2)


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
    networks, image, z = Networks(SMALL, 2, (32, 32)).eval(), torch.rand(1, 3, *size), torch.zeros(1, 8)
    domains = torch.tensor([0]), torch.tensor([1])
    made = [networks.translate(image, z, domain) for domain in domains]
    assert made[0].shape == image.shape and made[0].min() >= 0 and made[0].max() <= 1
    codes = [networks.encode(image, domain) for domain in domains]
    for one, other in (made, codes, (made[0], networks.translate(image, z + 1, domains[0]))):
        assert not torch.allclose(one, other, atol=1e-6)


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
    for layer in (0, 2):
        nn.init.kaiming_normal_(networks.content[layer].weight)
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
