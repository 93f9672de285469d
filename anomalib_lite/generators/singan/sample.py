"""New images from a trained pyramid."""

from __future__ import annotations

import torch
from torch import Tensor

from anomalib_lite.errors import UserError
from anomalib_lite.generators.singan.pyramid import Size
from anomalib_lite.generators.singan.scales import Pyramid, climb, fixed_noise, last, random_noise


def check_start(start_scale: int, scales: int) -> None:
    if not 0 <= start_scale < scales:
        raise UserError(f"start_scale is one of 0 to {scales - 1} with {scales} scales, but {start_scale} was given.")


@torch.no_grad()
def random_sample(
    pyramid: Pyramid, start_scale: int, draw: torch.Generator, stretch: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """A new image (1, 3, H, W) in [-1, 1].

    start_scale: below it the fixed noise keeps the training image's structure, from it on the noise is fresh; 0: all is
    new. stretch: height and width of the new image relative to the training image's.
    """
    check_start(start_scale, len(pyramid.scales))
    below = None
    if start_scale:
        below = last(climb(pyramid.scales[:start_scale], fixed_noise(pyramid)))
    sizes = stretched(pyramid, stretch)
    return last(climb(pyramid.scales, random_noise(draw, pyramid.real.device), start_scale, below, sizes))


def stretched(pyramid: Pyramid, stretch: tuple[float, float]) -> list[Size]:
    return [(round(height * stretch[0]), round(width * stretch[1])) for height, width in pyramid.sizes]
