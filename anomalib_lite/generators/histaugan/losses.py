"""The terms of the two games, each a scalar."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """The official ones."""

    adversarial: float = 1.0
    domain_discriminator: float = 1.0
    domain_generator: float = 5.0
    content_confusion: float = 1.0
    self_reconstruction: float = 10.0
    cross_cycle: float = 10.0
    content_l2: float = 0.01
    attribute_kl: float = 0.01
    latent_regression: float = 10.0


def told_apart(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's: logits of real images towards 1, of fake ones towards 0."""
    return _towards(real, 1.0) + _towards(fake, 0.0)


def taken_for_real(fake: Tensor) -> Tensor:
    """The generator's: logits of its images towards 1."""
    return _towards(fake, 1.0)


def domain_named(logits: Tensor, one_hot: Tensor) -> Tensor:
    """Each domain's logit on its own towards the one-hot."""
    return F.binary_cross_entropy_with_logits(logits, one_hot)


def domain_hidden(logits: Tensor, one_hot: Tensor) -> Tensor:
    """The content encoder's answer to the content discriminator: its logits towards all domains but the own."""
    return F.binary_cross_entropy_with_logits(logits, 1 - one_hot)


def content_size(content: Tensor) -> Tensor:
    return content.square().mean()


def attribute_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence from N(0, I), summed over the batch as in the official code (whose batch is 2), not averaged."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()


def latent_distance(found: Tensor, drawn: Tensor) -> Tensor:
    """Mean L1 of attributes found again in images made with drawn ones; twice, because the official code adds the means
    of the batch's two halves.
    """
    return 2 * F.l1_loss(found, drawn)


def _towards(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
