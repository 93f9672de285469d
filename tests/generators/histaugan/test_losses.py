"""Who gets whose content, and each term against a value worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from anomalib_lite.generators.histaugan.module import attribute_kl, cross, latent_distance, towards


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_logits_go_towards_one_target_or_each_towards_its_own() -> None:
    fake = torch.tensor([[0.5], [-3.0]])
    assert towards(fake, 0).item() == pytest.approx((softplus(0.5) + softplus(-3)) / 2)
    assert towards(fake, 1).item() == pytest.approx((softplus(-0.5) + softplus(3)) / 2)
    logits, one_hot = torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 0.0]])
    assert towards(logits, one_hot).item() == pytest.approx((softplus(-1) + softplus(-2)) / 2)


def test_attributes() -> None:
    mean, log_variance = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, math.log(4.0)], [0.0, 0.0]])
    by_hand = 0.5 * (1 + (4 - 1 - math.log(4)) + 0 + 4)
    assert attribute_kl(mean, log_variance).item() == pytest.approx(by_hand)
    assert attribute_kl(torch.zeros(3, 8), torch.zeros(3, 8)).item() == 0
    found, drawn = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert latent_distance(found, drawn).item() == pytest.approx(1.5 + 1.0)  # the halves' means, added


def ideal() -> SimpleNamespace:
    """Encoders and decoder that take images apart exactly: content is what varies, attribute the colours' means."""

    def attribute(image: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        mean = image.mean(dim=(2, 3))
        return mean, torch.full_like(mean, -1e9)

    return SimpleNamespace(
        content=lambda image, noise: image - image.mean(dim=(2, 3), keepdim=True),
        attribute=attribute,
        decoder=lambda content, z, domain: content + z[:, :, None, None],
    )


@pytest.mark.parametrize("batch", [2, 3, 4, 5])
def test_contents_go_round_and_come_back(batch: int) -> None:
    image, domain = torch.rand(batch, 3, 8, 8), torch.ones(batch, 1)
    crossing = cross(ideal(), image, domain, torch.Generator())
    half = batch // 2
    for i in range(batch):
        donor = (i + half) % batch
        assert donor != i
        structure = image[donor] - image[donor].mean(dim=(1, 2), keepdim=True)
        own = image[i].mean(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(crossing.encoded[i], structure + own)
        torch.testing.assert_close(crossing.random[i], structure + crossing.drawn[i][:, None, None])
    torch.testing.assert_close(crossing.own, image)
    torch.testing.assert_close(crossing.back, image)
    torch.testing.assert_close(crossing.found, crossing.drawn)


def test_an_even_batch_is_paired_as_halves() -> None:
    image = torch.rand(4, 3, 8, 8)
    crossing = cross(ideal(), image, torch.ones(4, 1), torch.Generator())
    swapped = torch.cat([image[2:], image[:2]])
    expected = swapped - swapped.mean(dim=(2, 3), keepdim=True) + image.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(crossing.encoded, expected)


def test_one_image_has_no_other() -> None:
    with pytest.raises(ValueError, match="at least two"):
        cross(ideal(), torch.rand(1, 3, 8, 8), torch.ones(1, 1), torch.Generator())
