"""Plain distances between teacher and student features, and how the levels' maps become one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.errors import UserError

FUSIONS = ("product", "sum")


def half_squared_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Half the squared distance of features (B, C, h, w) that are normalised over the channels: (B, 1, h, w).

    STFPM (Wang et al., BMVC 2021, equation 1); equals 1 - cosine similarity.
    """
    difference = F.normalize(teacher, dim=1) - F.normalize(student, dim=1)
    return 0.5 * difference.square().sum(1, keepdim=True)


def mean_squared_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over the channels of the squared difference (B, C, h, w) -> (B, 1, h, w)."""
    return (teacher - student).square().mean(1, keepdim=True)


def check_fusion(how: str) -> None:
    """Errors: UserError where `fuse` knows no such way."""
    if how not in FUSIONS:
        raise UserError(f"fusion must be {' or '.join(FUSIONS)}, not '{how}'.")


def fuse(maps: Sequence[Tensor], how: str) -> Tensor:
    """One map (B, 1, h, w) at the finest resolution from those of several levels.

    how: `product`, as the geometric mean, which ranks as the product does and keeps the unit; or `sum`, as the mean.
    Errors: see `check_fusion`.
    """
    check_fusion(how)
    size = max((m.shape[-2:] for m in maps), key=lambda s: s[0] * s[1])
    resized = torch.stack([F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps])
    if how == "product":
        return resized.clamp_min(1e-12).log().mean(0).exp()
    return resized.mean(0)
