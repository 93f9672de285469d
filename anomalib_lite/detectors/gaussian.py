"""A Gaussian a position, and the Mahalanobis distance from it."""

from __future__ import annotations

import torch
from torch import Tensor

from anomalib_lite.detectors.buffers import Fitted
from anomalib_lite.detectors.whitening import Moments


class PositionGaussian(Fitted):
    """Gaussians over the channels, one for each position of an aligned product.

    After PaDiM (Defard et al., ICPR 2021, section III), with the covariance of each position shrunk towards the one
    pooled over all positions, so that few OK images suffice. Features (B, C, h, w) -> mean squared Mahalanobis distance
    over the channels (B, 1, h, w), 1 on average where the model is right.
    shrinkage: 0 leaves each position its own covariance, 1 gives all the pooled one. ridge: share of the pooled mean
    variance added to the diagonal.
    """

    def __init__(self, shrinkage: float = 0.1, ridge: float = 0.01) -> None:
        super().__init__()
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
        channels = pooled.shape[0]
        covariance = (1 - self.shrinkage) * own + self.shrinkage * pooled
        covariance += self.ridge * pooled.diagonal().mean() * torch.eye(channels, dtype=own.dtype, device=own.device)
        lower = torch.linalg.cholesky(covariance)
        identity = torch.eye(channels, dtype=own.dtype, device=own.device).expand_as(lower)
        self.mean = mean.float()
        self.precision_root = torch.linalg.solve_triangular(lower, identity, upper=False).float().contiguous()

    def forward(self, features: Tensor) -> Tensor:
        centred = features.flatten(2).permute(2, 1, 0) - self.mean.unsqueeze(-1)
        distance = (self.precision_root @ centred).square().mean(1)
        return distance.T.reshape(features.shape[0], 1, *features.shape[2:])
