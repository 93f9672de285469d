"""A Gaussian a position, and the Mahalanobis distance from it."""

from __future__ import annotations

import torch
from torch import Tensor

from anomalib_lite.detectors.buffers import Fitted
from anomalib_lite.detectors.whitening import Moments
from anomalib_lite.errors import UserError


class PositionGaussian(Fitted):
    """Gaussians over the channels, one for each position of an aligned product.

    After PaDiM (Defard et al., ICPR 2021, section III), with the covariance of each position shrunk towards the one
    pooled over all positions, so that few OK images suffice. Features (B, C, h, w) -> mean squared Mahalanobis distance
    over the channels (B, 1, h, w), 1 on average where the model is right.

    Args:
        shrinkage: 0 leaves each position its own covariance, 1 gives all the pooled one. `auto` finds the share of
            each position from the number of images and how far its covariance is from the pooled one (`oas_share`),
            and keeps that position's scale.
        ridge: Share of the pooled mean variance added to the diagonal.
    """

    def __init__(self, shrinkage: float | str = "auto", ridge: float = 0.01) -> None:
        super().__init__()
        if isinstance(shrinkage, str) and shrinkage != "auto":
            raise UserError(f"A Gaussian's shrinkage must be auto or a number from 0 to 1, not '{shrinkage}'.")
        self.shrinkage, self.ridge = shrinkage, ridge
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("precision_root", torch.empty(0))

    @staticmethod
    def update(moments: Moments, features: Tensor) -> None:
        """Adds features (B, C, h, w) to the moments of each of their h * w positions."""
        moments.update(features.flatten(2).permute(2, 0, 1))

    def fit(self, moments: Moments) -> None:
        mean, own = moments.mean_and_covariance()
        pooled = own.mean(0)
        identity = torch.eye(pooled.shape[0], dtype=own.dtype, device=own.device)
        floor = self.ridge * pooled.diagonal().mean() * identity
        if self.shrinkage == "auto":
            covariance = _shrunk(own, pooled + floor, moments.count)
        else:
            covariance = (1 - self.shrinkage) * own + self.shrinkage * pooled
        lower = torch.linalg.cholesky(covariance + floor)
        self.mean = mean.float()
        root = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)
        self.precision_root = root.float().contiguous()

    def forward(self, features: Tensor) -> Tensor:
        return self._whitened(features).square().mean(1).T.reshape(features.shape[0], 1, *features.shape[2:])

    def deviations(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape, uncorrelated and of unit variance where the model is right."""
        return self._whitened(features).permute(2, 1, 0).reshape(features.shape)

    def _whitened(self, features: Tensor) -> Tensor:
        """(positions, C, B)"""
        return self.precision_root @ (features.flatten(2).permute(2, 1, 0) - self.mean.unsqueeze(-1))


def oas_share(covariance: Tensor, count: int) -> Tensor:
    """How far (...) to shrink each covariance (..., C, C) of `count` rows towards its mean variance.

    Oracle approximating shrinkage (Chen, Wiesel, Eldar, Hero, "Shrinkage Algorithms for MMSE Covariance Estimation",
    IEEE Transactions on Signal Processing 2010), as scikit-learn's `oas` computes it.
    """
    channels = covariance.shape[-1]
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1).square()
    size = covariance.square().mean((-2, -1))
    spread = (count + 1) * (size - variance / channels)
    return torch.where(spread > 0, (size + variance) / spread.clamp_min(1e-300), 1.0).clamp(max=1)


def _shrunk(own: Tensor, pooled: Tensor, count: int) -> Tensor:
    """Covariances (P, C, C), each shrunk towards the pooled one (C, C) times its own scale.

    In the coordinates in which the pooled covariance is the identity, that is shrinkage towards the mean variance.
    """
    lower = torch.linalg.cholesky(pooled)
    half = torch.linalg.solve_triangular(lower, own, upper=False)
    white = torch.linalg.solve_triangular(lower, half.transpose(1, 2), upper=False)
    share = oas_share(white, count)
    scale = share * white.diagonal(dim1=1, dim2=2).mean(1)
    return (1 - share).view(-1, 1, 1) * own + scale.view(-1, 1, 1) * pooled
