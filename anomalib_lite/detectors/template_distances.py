"""An image against a template that lies over it, give or take some pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_distance(image: Tensor, template: Tensor, reach: int) -> Tensor:
    """1 - cosine similarity of features (B, C, h, w) to the best match within `reach` positions: (B, 1, h, w).

    Both ways, the larger counts: what the image has must be found in the template, and what the template has in the
    image. reach 0 compares each position with itself alone.
    """
    a, b = F.normalize(image, dim=1), F.normalize(template, dim=1)
    height, width = a.shape[-2:]
    there = torch.full_like(a[:, :1], -1.0)  # the best similarity of each position of the image
    back = torch.full_like(there, -1.0)  # and of each position of the template
    for dy in range(-min(reach, height - 1), min(reach, height - 1) + 1):
        for dx in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            own, other = _overlap(dy, dx, height, width), _overlap(-dy, -dx, height, width)
            similar = (a[own] * b[other]).sum(1, keepdim=True)
            there[own] = torch.maximum(there[own], similar)
            back[other] = torch.maximum(back[other], similar)
    return (1 - torch.minimum(there, back)).clamp_min(0)


def pixel_difference(image: Tensor, template: Tensor, tolerance: int) -> Tensor:
    """How far each colour (B, 3, H, W) lies outside what the other picture has within `tolerance` px: (B, 1, H, W).

    The two-sided tolerance of print inspection, as a mean over the colours. An edge that is off by up to `tolerance` px
    costs nothing; a line or a hole counts wherever more than that is there or is lacking.
    """

    def outside(picture: Tensor, other: Tensor) -> Tensor:
        highest, lowest = _highest(other, tolerance), -_highest(-other, tolerance)
        return torch.maximum(picture - highest, lowest - picture)

    both = torch.maximum(outside(image, template), outside(template, image))
    return both.clamp_min(0).mean(1, keepdim=True)


def shrink(seen: Tensor, by: int) -> Tensor:
    """True where all of `seen` (B, 1, H, W) within `by` px is True; beyond the border nothing is seen."""
    unseen = F.pad((~seen).float(), (by, by, by, by), value=1.0)
    return F.max_pool2d(unseen, 2 * by + 1, 1) == 0


def _highest(picture: Tensor, tolerance: int) -> Tensor:
    side = 2 * tolerance + 1
    rows = F.max_pool2d(picture, (side, 1), 1, (tolerance, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, tolerance))


def _overlap(dy: int, dx: int, height: int, width: int) -> tuple[slice, ...]:
    """Where a position has its neighbour (dy, dx) within the grid."""
    rows = slice(max(0, -dy), height - max(0, dy))
    columns = slice(max(0, -dx), width - max(0, dx))
    return (slice(None), slice(None), rows, columns)
