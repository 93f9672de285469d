"""Each term against a value worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from anomalib_lite.generators.histaugan import losses
from anomalib_lite.generators.histaugan.losses import LossWeights


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_real_and_fake() -> None:
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [-3.0]])
    by_hand = (softplus(-2) + softplus(1)) / 2 + (softplus(0.5) + softplus(-3)) / 2
    assert losses.told_apart(real, fake).item() == pytest.approx(by_hand)
    assert losses.taken_for_real(fake).item() == pytest.approx((softplus(-0.5) + softplus(3)) / 2)


def test_domains_are_told_one_logit_at_a_time() -> None:
    logits, one_hot = torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 0.0]])
    assert losses.domain_named(logits, one_hot).item() == pytest.approx((softplus(-1) + softplus(-2)) / 2)
    assert losses.domain_hidden(logits, one_hot).item() == pytest.approx((softplus(1) + softplus(2)) / 2)


def test_content_and_attributes() -> None:
    assert losses.content_size(torch.tensor([[3.0, -1.0]])).item() == pytest.approx(5)
    mean, log_variance = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, math.log(4.0)], [0.0, 0.0]])
    by_hand = 0.5 * (1 + (4 - 1 - math.log(4)) + 0 + 4)
    assert losses.attribute_kl(mean, log_variance).item() == pytest.approx(by_hand)
    assert losses.attribute_kl(torch.zeros(3, 8), torch.zeros(3, 8)).item() == 0
    found, drawn = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert losses.latent_distance(found, drawn).item() == pytest.approx(1.5 + 1.0)  # the halves' means, added


def test_official_weights() -> None:
    weights = LossWeights()
    assert (weights.adversarial, weights.domain_discriminator, weights.domain_generator) == (1, 1, 5)
    assert (weights.content_confusion, weights.self_reconstruction, weights.cross_cycle) == (1, 10, 10)
    assert (weights.content_l2, weights.attribute_kl, weights.latent_regression) == (0.01, 0.01, 10)
