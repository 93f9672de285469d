"""A trained pyramid, and the way of an image up its scales."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from anomalib_lite.generators.singan.losses import rmse
from anomalib_lite.generators.singan.networks import ScaleGenerator
from anomalib_lite.generators.singan.pyramid import Size, resize


@dataclass
class Scale:
    """amplitude: the standard deviation of the noise that this scale's generator gets."""

    size: Size
    generator: ScaleGenerator
    amplitude: float


@dataclass
class Pyramid:
    """scales: coarsest first. fixed_noise (1, 3, H, W): at the coarsest scale it gives back `real`; the finer scales'
    fixed noise is zero. real (1, 3, H, W): the image in [-1, 1] at the finest scale. content: its place among
    the OK images.
    """

    content: int
    real: Tensor
    fixed_noise: Tensor
    scales: list[Scale] = field(default_factory=list)

    def to(self, device: torch.device | str) -> Pyramid:
        self.real, self.fixed_noise = self.real.to(device), self.fixed_noise.to(device)
        for scale in self.scales:
            scale.generator.to(device)
        return self

    @property
    def sizes(self) -> list[Size]:
        return [scale.size for scale in self.scales]


class Noise(Protocol):
    def __call__(self, scale: int, size: Size) -> Tensor:
        """(1, 3, height, width), standard deviation 1."""


def climb(
    scales: Sequence[Scale],
    noise: Noise,
    first: int = 0,
    start: Tensor | None = None,
    sizes: Sequence[Size] | None = None,
) -> Iterator[Tensor]:
    """The image (1, 3, H, W) after each scale from `first` on.

    start: what the first scale refines, of any size; None stands for nothing, as below the coarsest scale.
    sizes: those of the images, where they differ from the scales' own; as many as scales.
    """
    image = start
    for number in range(first, len(scales)):
        scale = scales[number]
        size = scale.size if sizes is None else sizes[number]
        drawn = noise(number, size)
        previous = torch.zeros_like(drawn) if image is None else resize(image, size)
        image = scale.generator(scale.amplitude * drawn, previous)
        yield image


def last(images: Iterator[Tensor]) -> Tensor:
    for image in images:  # noqa: B007
        pass
    return image


def seeded(*numbers: int) -> torch.Generator:
    """A generator on the CPU whose values depend on all the numbers."""
    # the count comes along because a seed sequence takes (1, 0) for (1,)
    high, low = np.random.SeedSequence([len(numbers), *numbers]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(high) << 32 | int(low))


def random_noise(draw: torch.Generator, device: torch.device) -> Noise:
    """Fresh at every scale; one channel for all colours at the coarsest. Drawn on the CPU: the same on any device."""

    def noise(scale: int, size: Size) -> Tensor:
        drawn = torch.randn(1, 1 if scale == 0 else 3, *size, generator=draw)
        return drawn.to(device).expand(1, 3, *size)

    return noise


def fixed_noise(pyramid: Pyramid) -> Noise:
    """The noise whose image is the training image."""

    def noise(scale: int, size: Size) -> Tensor:
        return pyramid.fixed_noise if scale == 0 else pyramid.fixed_noise.new_zeros(1, 3, *size)

    return noise


@torch.no_grad()
def reconstruct(pyramid: Pyramid) -> list[Tensor]:
    """The training image as the pyramid remembers it, at each scale."""
    return list(climb(pyramid.scales, fixed_noise(pyramid)))


def reconstruction_errors(pyramid: Pyramid) -> list[float]:
    """RMSE of the reconstruction at each scale, for images in [0, 1]."""
    return [rmse(image, resize(pyramid.real, image.shape[-2:])) / 2 for image in reconstruct(pyramid)]
