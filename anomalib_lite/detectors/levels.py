"""Features of several levels: resampling to one grid, distances between teacher and student, fusion of maps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.errors import UserError


def stack(features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Stacks levels (B, C_l, h_l, w_l) to (B, sum of C_l, *size): averages finer ones, interpolates coarser ones."""

    def resized(feature: Tensor) -> Tensor:
        if feature.shape[-2] < size[0] or feature.shape[-1] < size[1]:
            return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)
        return F.adaptive_avg_pool2d(feature, size)

    return torch.cat([resized(feature) for feature in features], dim=1)


def size_of(features: Tensor) -> tuple[int, int]:
    """Returns the height and width of (..., h, w)."""
    return int(features.shape[-2]), int(features.shape[-1])


def grid_of(image: Tensor, stride: int) -> tuple[int, int]:
    """Returns the number of rows and columns of positions `stride` px apart in images (B, 3, H, W)."""
    height, width = image.shape[-2:]
    return max(1, -(-height // stride)), max(1, -(-width // stride))


def chosen_levels(levels: Sequence[int] | None, available: int) -> list[int]:
    """Returns the indices of the backbone layers that a detector uses; None selects all."""
    chosen = list(range(available)) if levels is None else sorted(set(levels))
    if not chosen or not all(0 <= level < available for level in chosen):
        raise UserError(
            f"detector.levels={list(levels or [])} must be indices of the {available} layers of backbone.layers: "
            f"0 to {available - 1}."
        )
    return chosen


def half_squared_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Computes half the squared distance of features (B, C, h, w), normalised over the channels: (B, 1, h, w).

    STFPM (Wang et al., BMVC 2021, equation 1); equals 1 - cosine similarity.
    """
    difference = F.normalize(teacher, dim=1) - F.normalize(student, dim=1)
    return 0.5 * difference.square().sum(1, keepdim=True)


def mean_squared_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Averages the squared difference of features (B, C, h, w) over the channels: (B, 1, h, w)."""
    return (teacher - student).square().mean(1, keepdim=True)


def fuse(maps: Sequence[Tensor], how: str) -> Tensor:
    """Fuses the levels' maps into one (B, 1, h, w) at the finest resolution.

    `product` takes the geometric mean, which ranks like the product and keeps the unit; `sum` takes the mean.
    """
    size = max((m.shape[-2:] for m in maps), key=lambda s: s[0] * s[1])
    resized = torch.stack([F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps])
    if how == "product":
        return resized.clamp_min(1e-12).log().mean(0).exp()
    return resized.mean(0)
