"""Resizing and smoothing of anomaly maps, and image scores from them.

Small maps are resized and smoothed by one matrix product per axis, which runs on any runtime.
"""

import contextlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_lite.errors import UserError

AT_ONCE = 1 << 20  # pixels of a map that are blurred at a time


class GaussianBlur(nn.Module):
    """Gaussian blur of maps (B, 1, H, W), like scipy.ndimage.gaussian_filter with mode="mirror", truncate=4.

    Sigma is in px; 0 does not blur. Under autocast the blur still uses the map's precision, since rounding to bfloat16
    would create ties. Raises UserError for an invalid sigma, and for maps no larger than the kernel's radius of 4
    sigma.
    """

    kernel: Tensor

    def __init__(self, sigma: float = 4.0) -> None:
        super().__init__()
        if not 0 <= sigma < float("inf"):
            raise UserError(f"The blur's sigma must be a number of pixels, 0 or more, not {sigma}.")
        self.sigma = sigma
        self.radius = int(4 * sigma + 0.5)
        self.register_buffer("kernel", torch.from_numpy(gaussian(sigma, self.radius)).float(), persistent=False)

    def check(self, size: Sequence[int]) -> None:
        """Raises UserError if maps of this height and width are too small for the blur."""
        if self.radius and min(size) <= self.radius:
            raise UserError(
                f"An anomaly map of {size[0]} x {size[1]} pixels is too small for a blur of sigma {self.sigma:g}, "
                f"which reaches {self.radius} pixels: choose an image_size above {self.radius}, or a "
                f"scoring.blur.sigma of {(min(size) - 1) / 4:g} or less."
            )

    def forward(self, maps: Tensor) -> Tensor:
        if self.radius == 0:
            return maps
        self.check(maps.shape[-2:])
        with _full_precision(maps):
            return self._down(self._down(maps).transpose(2, 3)).transpose(2, 3).contiguous()

    def enlarged(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """Resizes coarse maps (B, 1, h, w) bilinearly and blurs them."""
        if tuple(maps.shape[-2:]) == tuple(size):
            return self(maps)
        self.check(size)
        with _full_precision(maps):
            return enlarged(maps, size, self.sigma, 4, "reflect")

    def _down(self, maps: Tensor) -> Tensor:
        """Blurs along H, with columns as channels, so that a depthwise convolution runs over whole rows.

        Splits large maps into groups of columns, since the convolution takes four times their memory.
        """
        blurred = []
        for part in [maps] if torch.compiler.is_exporting() else maps.split(max(64, AT_ONCE // maps.shape[2]), 3):
            padded, width = F.pad(part, (0, 0, self.radius, self.radius), mode="reflect"), part.shape[3]
            kernel = self.kernel.to(part.dtype).view(1, 1, -1, 1).expand(width, 1, -1, 1)
            blurred.append(F.conv2d(padded.permute(0, 3, 2, 1), kernel, groups=width).permute(0, 3, 2, 1))
        return torch.cat(blurred, 3) if len(blurred) > 1 else blurred[0]


def _full_precision(maps: Tensor) -> contextlib.AbstractContextManager:
    if torch.is_autocast_enabled(maps.device.type):
        return torch.autocast(maps.device.type, enabled=False)
    return contextlib.nullcontext()


class MaxScore(nn.Module):
    """Maximum of the map: (B, 1, H, W) to (B,)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(1).amax(dim=1)


class TopKScore(nn.Module):
    """Mean of the largest pixels of the map: (B, 1, H, W) to (B,).

    `pixels` is a number, if an int >= 1, or a share of the map, if a float in (0, 1], of at least one pixel. More
    robust to single hot pixels than the maximum, but less sensitive to defects of fewer pixels.
    """

    def __init__(self, pixels: int | float = 0.01) -> None:
        super().__init__()
        is_count = isinstance(pixels, int)
        if isinstance(pixels, bool) or not (pixels >= 1 if is_count else 0 < pixels <= 1):
            raise UserError(
                "The score's pixels must be an integer of at least 1, or a float above 0.0 and at most 1.0, not "
                f"{pixels!r}."
            )
        self.pixels = pixels

    def forward(self, maps: Tensor) -> Tensor:
        flat = maps.flatten(1)
        size = flat.shape[1]
        count = min(self.pixels, size) if isinstance(self.pixels, int) else max(1, round(self.pixels * size))
        return flat.topk(count, dim=1, sorted=False).values.mean(dim=1)


def enlarged(maps: Tensor, size: Sequence[int], sigma: float, reach: float, border: str) -> Tensor:
    """Resizes maps (B, C, h, w) bilinearly to (B, C, *size), then smooths them by a Gaussian of `sigma` px.

    The kernel's radius `reach` is in standard deviations; `border` is a mode of numpy.pad.
    """
    return _product(maps, size, lambda before, after: _smoothing(before, after, sigma, reach, border))


def averaged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Like F.adaptive_avg_pool2d, which an exported graph computes window by window if sizes do not divide."""
    return _product(maps, size, _averaging)


def averaged_around(maps: Tensor, reach: int) -> Tensor:
    """Averages maps (B, C, h, w) over a window of `reach` positions to either side, cut off at the border."""
    return _product(maps, maps.shape[-2:], lambda size, _: _box(size, reach))


def _product(maps: Tensor, size: Sequence[int], make: Callable[[int, int], np.ndarray]) -> Tensor:
    pairs = zip(maps.shape[-2:], size, strict=True)
    down, across = (torch.from_numpy(make(int(before), int(after))).to(maps) for before, after in pairs)
    return down @ maps @ across.T


def bilinear(before: int, after: int) -> np.ndarray:
    """Matrix (after, before) of a linear interpolation along one axis."""
    position = ((np.arange(after) + 0.5) * before / after - 0.5).clip(0, before - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(before)))


def gaussian(sigma: float, radius: int) -> np.ndarray:
    """Returns 2 * radius + 1 weights that sum to 1."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-12)) ** 2)
    return weights / weights.sum()


@lru_cache
def _smoothing(before: int, after: int, sigma: float, reach: float, border: Any) -> np.ndarray:
    radius = int(reach * sigma + 0.5)
    padded = np.pad(bilinear(before, after), ((radius, radius), (0, 0)), mode=border)
    matrix = np.zeros((after, before))
    for k, weight in enumerate(gaussian(sigma, radius)):  # one at a time: a large map's take 10 MB each
        matrix += weight * padded[k : k + after]
    return matrix.astype(np.float32)


@lru_cache
def _averaging(before: int, after: int) -> np.ndarray:
    first, last = np.arange(after) * before // after, -(-(np.arange(after) + 1) * before // after)
    inside = (first[:, None] <= np.arange(before)) & (np.arange(before) < last[:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


@lru_cache
def _box(size: int, reach: int) -> np.ndarray:
    near = np.abs(np.arange(size)[:, None] - np.arange(size)) <= reach
    return (near / near.sum(1, keepdims=True)).astype(np.float32)
