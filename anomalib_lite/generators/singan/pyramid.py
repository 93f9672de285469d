"""The scales of one image: how many, how large, how wide their networks, and the image at each."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_lite.errors import UserError

Size = tuple[int, int]


def pyramid_sizes(height: int, width: int, factor: float, max_size: int, min_size: int) -> list[Size]:
    """(height, width) in px of each scale, coarsest first.

    The finest is the image itself, reduced where its long side exceeds `max_size`. The factor from scale to scale is
    `factor`, raised so that the coarsest short side is `min_size` exactly. The number of scales is that of the authors'
    code, which rounds up and adds one more: 250 x 250 px gives 11.
    Errors: UserError where the short side is not above `min_size`.
    Source: Shaham, Dekel, Michaeli, "SinGAN: Learning a Generative Model from a Single Natural Image", ICCV 2019.
    """
    short, long = sorted((height, width))
    reduced = min(max_size / long, 1)
    height, width = round(height * reduced), round(width * reduced)
    if min(height, width) <= min_size:
        raise UserError(
            f"A pyramid of an image of {height} x {width} px needs a coarsest short side (min_size) below "
            f"{min(height, width)} px, not {min_size}. Give larger images, a larger max_size or a smaller min_size."
        )
    steps = _steps(min_size / short, factor) + 1 - _steps(reduced, factor)
    fitted = (min_size / min(height, width)) ** (1 / steps)
    return [(round(height * fitted**k), round(width * fitted**k)) for k in reversed(range(steps + 1))]


def _steps(ratio: float, factor: float) -> int:
    return math.ceil(math.log(ratio) / math.log(factor))


def channels(scale: int, least: int, most: int) -> int:
    """Of every layer at a scale: doubled every fourth one."""
    return min(least * 2 ** (scale // 4), most)


def resize(image: Tensor, size: Size) -> Tensor:
    """Bicubic with a = -0.5, area-aware where it shrinks, kept within [-1, 1]."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bicubic", antialias=True).clamp(-1, 1)


def to_tensor(pixels: Tensor) -> Tensor:
    """uint8 (H, W, 3) -> float32 (1, 3, H, W) in [-1, 1], the range of the networks."""
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


def to_pixels(image: Tensor) -> Tensor:
    """(1, 3, H, W) in [-1, 1] -> uint8 (H, W, 3)."""
    return ((image[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().contiguous()
