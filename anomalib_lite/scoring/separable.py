"""Resizing and smoothing of small maps by one matrix product per axis, which runs on any runtime."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
