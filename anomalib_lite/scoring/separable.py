"""Small maps enlarged and smoothed by a matrix from either side: one product for both, on whatever runs it."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


def enlarged(map: Tensor, size: Sequence[int], sigma: float, reach: float, border: str) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear, then smoothed by a Gaussian of `sigma` px.

    reach: of the Gaussian, in standard deviations. border: as numpy.pad calls what lies beyond it.
    """
    return _product(map, size, lambda own, wanted: _smoothing(own, wanted, sigma, reach, border))


def averaged(map: Tensor, size: Sequence[int]) -> Tensor:
    """As F.adaptive_avg_pool2d; a graph would gather each place's window where one size does not divide the other."""
    return _product(map, size, _averaging)


def averaged_around(map: Tensor, reach: int) -> Tensor:
    """(B, C, h, w) -> the same shape, means over up to `reach` places to either side, of those that there are."""
    return _product(map, map.shape[-2:], lambda own, _: _box(own, reach))


def _product(map: Tensor, size: Sequence[int], make: Callable[[int, int], np.ndarray]) -> Tensor:
    pairs = zip(map.shape[-2:], size, strict=True)
    down, across = (torch.from_numpy(make(int(own), int(wanted))).to(map) for own, wanted in pairs)
    return down @ map @ across.T


def bilinear(own: int, wanted: int) -> np.ndarray:
    """(wanted, own): of each position, in a linear interpolation to so many."""
    place = ((np.arange(wanted) + 0.5) * own / wanted - 0.5).clip(0, own - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(own)))


def gaussian(sigma: float, radius: int) -> np.ndarray:
    """The weights of 2 radius + 1 places."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-12)) ** 2)
    return weights / weights.sum()


@lru_cache
def _smoothing(own: int, wanted: int, sigma: float, reach: float, border: Any) -> np.ndarray:
    radius = int(reach * sigma + 0.5)
    padded = np.pad(bilinear(own, wanted), ((radius, radius), (0, 0)), mode=border)
    found = np.zeros((wanted, own))
    for k, weight in enumerate(gaussian(sigma, radius)):  # never all of them at once: of a large map each takes 10 MB
        found += weight * padded[k : k + wanted]
    return found.astype(np.float32)


@lru_cache
def _averaging(own: int, wanted: int) -> np.ndarray:
    first, last = np.arange(wanted) * own // wanted, -(-(np.arange(wanted) + 1) * own // wanted)
    inside = (first[:, None] <= np.arange(own)) & (np.arange(own) < last[:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


@lru_cache
def _box(size: int, reach: int) -> np.ndarray:
    near = np.abs(np.arange(size)[:, None] - np.arange(size)) <= reach
    return (near / near.sum(1, keepdims=True)).astype(np.float32)
