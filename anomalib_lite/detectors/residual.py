"""The student's residual on OK images, as Gaussians over groups of feature levels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.detectors.distances import check_fusion, fuse
from anomalib_lite.detectors.gaussian import PositionGaussian
from anomalib_lite.detectors.whitening import Moments


class ResidualModel(nn.Module):
    """Features of several levels -> one map of Mahalanobis distances.

    groups: which levels share one Gaussian; a group's levels are brought to the grid of its coarsest one (averaged
    down) and stacked, so that what they say together counts. The groups' maps are fused (see `distances.fuse`).
    shrinkage, ridge: see PositionGaussian.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        shrinkage: float | str = "auto",
        ridge: float = 0.01,
        fusion: str = "product",
    ) -> None:
        super().__init__()
        check_fusion(fusion)
        self.groups = [list(group) for group in groups]
        self.fusion = fusion
        self.gaussians = nn.ModuleList(PositionGaussian(shrinkage, ridge) for _ in self.groups)

    def keep(self, levels: int) -> bool:
        """Drops from the groups what lies beyond so many levels; False where nothing is left."""
        groups = [[level for level in group if level < levels] for group in self.groups]
        self.groups = [group for group in groups if group]
        self.gaussians = self.gaussians[: len(self.groups)]  # not fitted yet, they are all alike
        return bool(self.groups)

    def fit(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """batches: the levels' features (B, C_l, h_l, w_l) of OK images."""
        moments = [Moments() for _ in self.groups]
        for features in batches:
            for own, group in zip(moments, self.groups, strict=True):
                PositionGaussian.update(own, self._stack(features, group))
        for gaussian, own in zip(self.gaussians, moments, strict=True):
            gaussian.fit(own)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Levels' features -> (B, 1, h, w), the finest group's grid."""
        maps = [g(self._stack(features, group)) for g, group in zip(self.gaussians, self.groups, strict=True)]
        return fuse(maps, self.fusion)

    @staticmethod
    def _stack(features: Sequence[Tensor], group: Sequence[int]) -> Tensor:
        size = min((features[level].shape[-2:] for level in group), key=lambda s: s[0] * s[1])
        return torch.cat([F.adaptive_avg_pool2d(features[level], size) for level in group], dim=1)
