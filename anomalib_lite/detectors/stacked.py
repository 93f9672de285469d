"""Features of several levels brought to one grid and stacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.errors import UserError


def stack(features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Levels (B, C_l, h_l, w_l) -> (B, sum of C_l, *size): finer ones averaged down, coarser ones bilinear."""
    return torch.cat([_resized(feature, size) for feature in features], dim=1)


def _resized(feature: Tensor, size: tuple[int, int]) -> Tensor:
    if feature.shape[-2] < size[0] or feature.shape[-1] < size[1]:
        return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(feature, size)


def grid_of(image: Tensor, stride: int) -> tuple[int, int]:
    """Rows and columns of the positions that lie `stride` px apart in images (B, 3, H, W)."""
    height, width = image.shape[-2:]
    return max(1, -(-height // stride)), max(1, -(-width // stride))


def chosen_levels(levels: Sequence[int] | None, available: int) -> list[int]:
    """Which of the backbone's layers a detector takes, by their place; None takes all."""
    chosen = list(range(available)) if levels is None else sorted(set(levels))
    if not chosen or not all(0 <= level < available for level in chosen):
        raise UserError(
            f"detector.levels={list(levels or [])} must name, by their place, some of the {available} layers that "
            f"backbone.layers gives: 0 to {available - 1}."
        )
    return chosen
