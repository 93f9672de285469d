"""A batch's images, made from each other's content and attributes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
