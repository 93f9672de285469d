"""How an image differs from a template that lies over it, and what of that is normal."""

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.detectors.statistics import Fitted, Moments
from anomalib_lite.errors import UserError

SCOPES = ("position", "global", "none")


def feature_distance(image: Tensor, template: Tensor, reach: int) -> Tensor:
    """1 - cosine similarity of features (B, C, h, w) to the best match within `reach` positions: (B, 1, h, w).

    Both ways, the larger counts: what the image has must be found in the template, and what the template has in the
    image. reach 0 compares each position with itself alone.
    """
    a, b = F.normalize(image, dim=1), F.normalize(template, dim=1)
    height, width = a.shape[-2:]
    there = back = torch.full_like(a[:, :1], -1.0)  # the best similarity of each position of the image, and back
    for dy in range(-min(reach, height - 1), min(reach, height - 1) + 1):
        for dx in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            own, other = _overlap(dy, dx, height, width), _overlap(-dy, -dx, height, width)
            similar = (a[own] * b[other]).sum(1, keepdim=True)
            # padded and not written into place: an exported graph copies the whole map for each write
            there = torch.maximum(there, F.pad(similar, _beside(dy, dx), value=-1.0))
            back = torch.maximum(back, F.pad(similar, _beside(-dy, -dx), value=-1.0))
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
    """The largest value within a square of `tolerance` px to each side; max_pool2d takes five times as long."""
    padded = F.pad(picture, (tolerance,) * 4, value=-torch.inf)
    return _running(_running(padded, tolerance, -1), tolerance, -2)


def _running(picture: Tensor, by: int, dim: int) -> Tensor:
    """The largest of every 2 * by + 1 neighbours along `dim`, which gets 2 * by shorter."""
    side, width = 2 * by + 1, 1
    while width < side:  # from windows of `width` to those of up to twice that
        step = min(width, side - width)
        length = picture.shape[dim] - step
        picture = torch.maximum(picture.narrow(dim, 0, length), picture.narrow(dim, step, length))
        width += step
    return picture


def _overlap(dy: int, dx: int, height: int, width: int) -> tuple[slice, ...]:
    """Where a position has its neighbour (dy, dx) within the grid."""
    rows = slice(max(0, -dy), height - max(0, dy))
    columns = slice(max(0, -dx), width - max(0, dx))
    return (slice(None), slice(None), rows, columns)


def _beside(dy: int, dx: int) -> tuple[int, int, int, int]:
    """What lies to the left, right, top and bottom of that."""
    return max(0, -dx), max(0, dx), max(0, -dy), max(0, dy)


class NormalDifference(Fitted):
    """A difference map (B, 1, h, w) -> by how many standard deviations it exceeds the OK images' mean, at least 0.

    scope: `position`, a mean and a deviation for each position of the product; `global`, one for all; `none`, divided
    by `unit` alone, which is also what an unfitted one does. shrinkage: share of the global variance in that of each
    position, so that few OK images suffice. smooth: positions to either side over which mean and variance are averaged.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, scope: str, unit: float, shrinkage: float = 0.1, smooth: int = 1) -> None:
        super().__init__()
        if scope not in SCOPES:  # the settings of a fusion's comparison have no ranges
            raise UserError(f"The scope of normal differences must be one of {', '.join(SCOPES)}, not '{scope}'.")
        self.scope, self.unit, self.shrinkage, self.smooth = scope, unit, shrinkage, smooth
        self.register_buffer("mean", torch.zeros(1, 1, 1, 1))
        self.register_buffer("deviation", torch.full((1, 1, 1, 1), unit))

    def fit(self, moments: Moments, grid: tuple[int, int]) -> None:
        """moments: of the OK images' differences, each place of the grid (h, w) apart."""
        mean, variance = moments.spread(grid, None).mean_and_covariance()
        size = (1, 1)
        if self.scope == "position":
            mean, own = moments.spread(grid, self.smooth).mean_and_covariance()
            variance = (1 - self.shrinkage) * own.clamp_min(0) + self.shrinkage * variance.clamp_min(0)
            size = grid
        floor = (1e-3 * self.unit) ** 2  # OK images that equal their template leave no variance
        self.mean = mean.float().view(1, 1, *size)
        self.deviation = variance.clamp_min(floor).sqrt().float().view(1, 1, *size)

    def forward(self, difference: Tensor) -> Tensor:
        mean, deviation = (self._sized(t, difference) for t in (self.mean, self.deviation))
        return ((difference - mean) / deviation).clamp_min(0)

    @staticmethod
    def _sized(fitted: Tensor, map: Tensor) -> Tensor:
        if fitted.shape[-2:] in ((1, 1), map.shape[-2:]):
            return fitted
        return F.interpolate(fitted, size=map.shape[-2:], mode="bilinear", align_corners=False)
