"""What differences between an OK image and its template are normal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.detectors.buffers import Fitted
from anomalib_lite.errors import UserError

SCOPES = ("position", "global", "none")


class NormalDifference(Fitted):
    """A difference map (B, 1, h, w) -> by how many standard deviations it exceeds the OK images' mean, at least 0.

    scope: `position`, a mean and a deviation for each position of the product; `global`, one for all; `none`, divided
    by `unit` alone, which is also what an unfitted one does. shrinkage: share of the global variance in that of each
    position, so that few OK images suffice. smooth: positions to either side over which mean and variance are averaged.
    """

    def __init__(self, scope: str, unit: float, shrinkage: float = 0.1, smooth: int = 1) -> None:
        super().__init__()
        if scope not in SCOPES:
            raise UserError(f"The scope of normal differences must be one of {', '.join(SCOPES)}, not '{scope}'.")
        self.scope, self.unit, self.shrinkage, self.smooth = scope, unit, shrinkage, smooth
        self.register_buffer("mean", torch.zeros(1, 1, 1, 1))
        self.register_buffer("deviation", torch.full((1, 1, 1, 1), unit))

    def fit(self, count: int, total: Tensor, squares: Tensor) -> None:
        """From sums over `count` OK images of the difference and of its square, (1, 1, h, w) in float64."""
        if self.scope == "none" or not count:
            return
        mean, second = total / count, squares / count
        overall = mean.mean((-2, -1), keepdim=True)
        spread = (second.mean((-2, -1), keepdim=True) - overall.square()).clamp_min(0)
        variance = spread
        if self.scope == "position":
            mean, second = self._averaged(mean), self._averaged(second)
            variance = (1 - self.shrinkage) * (second - mean.square()).clamp_min(0) + self.shrinkage * spread
            overall = mean
        floor = (1e-3 * self.unit) ** 2  # OK images that equal their template leave no variance
        self.mean, self.deviation = overall.float(), variance.clamp_min(floor).sqrt().float()

    def forward(self, difference: Tensor) -> Tensor:
        mean, deviation = (self._sized(t, difference) for t in (self.mean, self.deviation))
        return ((difference - mean) / deviation).clamp_min(0)

    def _averaged(self, map: Tensor) -> Tensor:
        side = 2 * self.smooth + 1
        return F.avg_pool2d(map, side, 1, self.smooth, count_include_pad=False)

    @staticmethod
    def _sized(fitted: Tensor, map: Tensor) -> Tensor:
        if fitted.shape[-2:] in ((1, 1), map.shape[-2:]):
            return fitted
        return F.interpolate(fitted, size=map.shape[-2:], mode="bilinear", align_corners=False)
