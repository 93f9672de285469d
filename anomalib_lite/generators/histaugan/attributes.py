"""Where the training images' attributes lie, and drawing new ones."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.generators.histaugan.draws import Images
from anomalib_lite.generators.histaugan.networks import Networks

Sampling = Literal["random", "statistics", "encoded"]
FEWEST = 64  # crops encoded of a domain, so that a single template has a spread too


def encode_domains(networks: Networks, images: Images, seed: int) -> list[Tensor]:
    """Each domain's attributes (N, attributes) on the CPU: one random crop an image, and at least 64 in all.

    Sets the networks' attribute_mean and attribute_std from them.
    """
    rng = np.random.default_rng([seed, 1])
    device = networks.attribute_mean.device
    found = []
    for domain, members in enumerate(images.of_domain):
        rounds = -(-FEWEST // len(members))
        crops = [images[images.draw(rng, domain, image)] for _ in range(rounds) for image in members]
        bar = tqdm(crops, f"attributes of domain {domain}", delay=2, leave=False)
        codes = [networks.encode(image[None].to(device), label[None].to(device)) for image, label in bar]
        found.append(torch.cat(codes).float().cpu())
        networks.attribute_mean[domain] = found[domain].mean(dim=0)
        networks.attribute_std[domain] = found[domain].std(dim=0)
    return found


def draw_attribute(
    networks: Networks, encoded: list[Tensor], domain: int, how: Sampling, rng: np.random.Generator
) -> Tensor:
    """One attribute vector: from N(0, I), from the domain's mean and standard deviation, or of one of its images."""
    if how == "encoded":
        return encoded[domain][int(rng.integers(len(encoded[domain])))]
    z = torch.from_numpy(rng.standard_normal(networks.attribute_mean.shape[1])).float()
    if how == "random":
        return z
    return networks.attribute_mean[domain].cpu() + networks.attribute_std[domain].cpu() * z


def restyle(networks: Networks, image: Tensor, p: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] -> as many; with probability p one keeps its content and gets an attribute of a
    drawn domain, from N(mean, std^2) of that domain: HistAuGAN as an augmentation.

    generator: of random numbers, on the CPU.
    """
    chosen = torch.rand(len(image), generator=generator) < p
    domain = torch.randint(networks.domains, (len(image),), generator=generator)
    z = torch.randn(len(image), networks.attribute_mean.shape[1], generator=generator)
    if not chosen.any():
        return image
    here = image.device
    chosen, domain, z = chosen.to(here), domain.to(here), z.to(here)
    z = networks.attribute_mean[domain] + networks.attribute_std[domain] * z
    result = image.clone()
    made = networks.translate(image[chosen], z[chosen], domain[chosen])
    result[chosen] = made.to(image.dtype)
    return result
