"""A batch's images made from each other's content and attributes, and the terms of the two games, each a scalar."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.generators.histaugan.networks import Networks


@dataclass(frozen=True)
class Crossing:
    """content (B, 4 * channels, h, w); mean, log_variance (B, attributes) of the images' own attributes.

    Images (B, 3, H, W) in [-1, 1]: own, from an image's content and attribute; encoded, from another's content; random,
    from another's content and drawn attributes; back, from the encoded images, crossed once more.
    drawn, found: the drawn attributes, and those that the encoder finds in `random`.
    """

    content: Tensor
    mean: Tensor
    log_variance: Tensor
    own: Tensor
    encoded: Tensor
    random: Tensor
    back: Tensor
    drawn: Tensor
    found: Tensor


def cross(networks: Networks, image: Tensor, domain: Tensor, noise: torch.Generator) -> Crossing:
    """image (B, 3, H, W) in [-1, 1], domain: one-hot (B, D).

    Each image gets the content of the one half a batch further on. In an even batch that pairs them, as in DRIT; in an
    odd one they go round, and nothing is lost. An image alone would be crossed with itself: batches hold two or more.
    """
    if len(image) < 2:
        raise ValueError("Images are crossed with each other: a batch needs at least two.")
    half = len(image) // 2

    def drawn_like(mean: Tensor) -> Tensor:
        return torch.randn(mean.shape, generator=noise, device=mean.device)

    content = networks.content(image, noise)
    mean, log_variance = networks.attribute(image, domain)
    z = mean + (0.5 * log_variance).exp() * drawn_like(mean)
    drawn = drawn_like(mean)
    other = content.roll(-half, dims=0)
    made = networks.decoder(
        torch.cat([content, other, other]), torch.cat([z, z, drawn]), torch.cat([domain, domain, domain])
    )
    own, encoded, random = made.chunk(3)

    content_again = networks.content(encoded, noise).roll(half, dims=0)
    mean_again, log_variance_again = networks.attribute(encoded, domain)
    z_again = mean_again + (0.5 * log_variance_again).exp() * drawn_like(mean_again)
    back = networks.decoder(content_again, z_again, domain)
    found, _ = networks.attribute(random, domain)
    return Crossing(content, mean, log_variance, own, encoded, random, back, drawn, found)


@dataclass(frozen=True)
class LossWeights:
    """The official ones, but for latent_regression, which is 10 there (preset=paper): so much forces every attribute to
    be seen, in colours that no product has.
    """

    adversarial: float = 1.0
    domain_discriminator: float = 1.0
    domain_generator: float = 5.0
    content_confusion: float = 1.0
    self_reconstruction: float = 10.0
    cross_cycle: float = 10.0
    content_l2: float = 0.01
    attribute_kl: float = 0.01
    latent_regression: float = 1.0


def towards(logits: Tensor, target: float | Tensor) -> Tensor:
    """Binary cross-entropy of logits towards a target, one for all or one each."""
    return F.binary_cross_entropy_with_logits(logits, torch.as_tensor(target).to(logits).expand_as(logits))


def attribute_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence from N(0, I), summed over the batch as in the official code (whose batch is 2), not averaged."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()


def latent_distance(found: Tensor, drawn: Tensor) -> Tensor:
    """Mean L1 of attributes found again in images made with drawn ones; twice, because the official code adds the means
    of the batch's two halves.
    """
    return 2 * F.l1_loss(found, drawn)
