"""Difference terms between an image and an aligned template, and their normal size on OK images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.detectors.statistics import Fitted, Moments
from anomalib_lite.errors import UserError

SCOPES = ("position", "global", "none")


def feature_distance(image: Tensor, template: Tensor, reach: int) -> Tensor:
    """Computes 1 - cosine similarity to the best match within `reach` positions, (B, C, h, w) to (B, 1, h, w).

    The larger of both directions counts: what the image shows must be found in the template, and the other way round.
    reach 0 compares each position only with itself.
    """
    a, b = F.normalize(image, dim=1), F.normalize(template, dim=1)
    height, width = a.shape[-2:]
    forward = back = torch.full_like(a[:, :1], -1.0)  # best similarity of image to template, and back
    for dy in range(-min(reach, height - 1), min(reach, height - 1) + 1):
        for dx in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            left, right, top, bottom = here = max(0, -dx), max(0, dx), max(0, -dy), max(0, dy)
            there = right, left, bottom, top
            similarity = a[:, :, top : height - bottom, left : width - right]
            similarity = (similarity * b[:, :, bottom : height - top, right : width - left]).sum(1, keepdim=True)
            # padded, because an exported graph would copy the whole map for each write in place
            forward = torch.maximum(forward, F.pad(similarity, here, value=-1.0))
            back = torch.maximum(back, F.pad(similarity, there, value=-1.0))
    return (1 - torch.minimum(forward, back)).clamp_min(0)


def pixel_difference(image: Tensor, template: Tensor, tolerance: int) -> Tensor:
    """Computes how far colours (B, 3, H, W) leave the range of the other picture within `tolerance` px: (B, 1, H, W).

    The two-sided tolerance of print inspection, averaged over the colours. An edge that is shifted by up to `tolerance`
    px costs nothing; an added or missing line or hole wider than that counts.
    """

    def outside(picture: Tensor, other: Tensor) -> Tensor:
        highest, lowest = _highest(other, tolerance), -_highest(-other, tolerance)
        return torch.maximum(picture - highest, lowest - picture)

    both = torch.maximum(outside(image, template), outside(template, image))
    return both.clamp_min(0).mean(1, keepdim=True)


def shrink(mask: Tensor, by: int) -> Tensor:
    """Erodes a mask (B, 1, H, W) by `by` px; everything outside the image counts as False."""
    outside = F.pad((~mask).float(), (by, by, by, by), value=1.0)
    return F.max_pool2d(outside, 2 * by + 1, 1) == 0


def _highest(picture: Tensor, tolerance: int) -> Tensor:
    """Dilates maps by a square of `tolerance` px to each side; max_pool2d takes five times as long."""
    padded = F.pad(picture, (tolerance,) * 4, value=-torch.inf)
    return _running(_running(padded, tolerance, -1), tolerance, -2)


def _running(picture: Tensor, by: int, dim: int) -> Tensor:
    """Computes the running maximum over 2 * by + 1 neighbours along `dim`, which shrinks by 2 * by."""
    side, width = 2 * by + 1, 1
    while width < side:  # each step up to doubles the window
        step = min(width, side - width)
        length = picture.shape[dim] - step
        picture = torch.maximum(picture.narrow(dim, 0, length), picture.narrow(dim, step, length))
        width += step
    return picture


class NormalDifference(Fitted):
    """Standardises a difference map (B, 1, h, w) by the OK images' mean and standard deviation; at least 0.

    `scope` none divides by `unit`, as an unfitted one does. Options: `settings.detectors.NormalDifference`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, scope: str, unit: float, shrinkage: float = 0.1, smooth: int = 1) -> None:
        super().__init__()
        if scope not in SCOPES:  # the settings of a fusion's comparison are not validated
            raise UserError(f"The scope of NormalDifference must be one of {', '.join(SCOPES)}, not '{scope}'.")
        self.scope, self.unit, self.shrinkage, self.smooth = scope, unit, shrinkage, smooth
        self.register_buffer("mean", torch.zeros(1, 1, 1, 1))
        self.register_buffer("deviation", torch.full((1, 1, 1, 1), unit))

    def fit(self, moments: Moments, grid: tuple[int, int]) -> None:
        """Fits to moments of the OK images' differences, one population per position of the grid (h, w)."""
        mean, variance = moments.pooled(grid, None).mean_and_covariance()
        size = (1, 1)
        if self.scope == "position":
            mean, variances = moments.pooled(grid, self.smooth).mean_and_covariance()
            variance = (1 - self.shrinkage) * variances.clamp_min(0) + self.shrinkage * variance.clamp_min(0)
            size = grid
        floor = (1e-3 * self.unit) ** 2  # OK images identical to their template have no variance
        self.mean = mean.float().view(1, 1, *size)
        self.deviation = variance.clamp_min(floor).sqrt().float().view(1, 1, *size)

    def forward(self, difference: Tensor) -> Tensor:
        mean, deviation, size = self.mean, self.deviation, difference.shape[-2:]
        if mean.shape[-2:] not in ((1, 1), size):
            mean, deviation = (F.interpolate(t, size=size, mode="bilinear") for t in (mean, deviation))
        return ((difference - mean) / deviation).clamp_min(0)
