"""Features whitened by their statistics on OK images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.detectors.buffers import Fitted


class Moments:
    """Streaming mean and covariance over rows, in float64."""

    def __init__(self) -> None:
        self.count, self.first, self.second = 0, torch.zeros(()), torch.zeros(())

    def update(self, rows: Tensor) -> None:
        """rows: (..., N, C); leading dimensions are separate populations."""
        rows = rows.double()
        self.count += rows.shape[-2]
        self.first = self.first + rows.sum(-2)
        self.second = self.second + rows.transpose(-1, -2) @ rows

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        mean = self.first / self.count
        return mean, self.second / self.count - mean.unsqueeze(-1) * mean.unsqueeze(-2)

    def spread(self, grid: Sequence[int], reach: int | None) -> Moments:
        """Of populations that are the places of a grid: each with those of its neighbours up to `reach` places away.

        None makes one population of all. The count stays that of one place, since neighbours say nearly the same.
        """
        near = Moments()
        near.count = self.count
        if reach is None:
            near.first, near.second = self.first.mean(0, keepdim=True), self.second.mean(0, keepdim=True)
        else:
            near.first, near.second = (_box_mean(sums, grid, reach) for sums in (self.first, self.second))
        return near


def _box_mean(sums: Tensor, grid: Sequence[int], reach: int) -> Tensor:
    """(places, ...), each the mean over the places of the grid around it; fewer at the border."""
    if reach == 0:
        return sums
    flat = sums.reshape(1, *grid, -1).movedim(-1, 1)
    mean = F.avg_pool2d(flat, 2 * reach + 1, 1, reach, count_include_pad=False)
    return mean.movedim(1, -1).reshape(sums.shape)


class Whitening(Fitted):
    """ZCA whitening of the channels of one feature level (Kessy, Lewin, Strimmer, The American Statistician 2018).

    (B, C, h, w) -> the same shape with zero mean and, up to shrinkage, identity covariance over all OK pixels; every
    direction of the feature space then counts alike in a squared distance, the rare ones too.
    shrinkage: share of the mean variance that is added to each eigenvalue.
    """

    def __init__(self, shrinkage: float = 0.01) -> None:
        super().__init__()
        self.shrinkage = shrinkage
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("matrix", torch.empty(0))

    def fit(self, moments: Moments) -> None:
        mean, covariance = moments.mean_and_covariance()
        values, vectors = torch.linalg.eigh(covariance)
        scale = (values.clamp(min=0) + self.shrinkage * values.mean()).rsqrt()
        self.mean = mean.float()
        self.matrix = ((vectors * scale) @ vectors.T).float().contiguous()

    def forward(self, features: Tensor) -> Tensor:
        centred = features - self.mean.view(1, -1, 1, 1)
        return torch.einsum("bchw,cd->bdhw", centred, self.matrix)
