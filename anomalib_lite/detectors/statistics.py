"""Statistics of features: streaming moments, whitening, a Gaussian a position, and how they are saved."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, Sequence, ValuesView
from functools import reduce
from itertools import pairwise
from operator import add
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Modules(nn.ModuleList, Generic[M]):
    """A ModuleList that says of what."""

    if TYPE_CHECKING:

        def __getitem__(self, idx: int) -> M: ...  # type: ignore[override]  # nothing here is sliced
        def __iter__(self) -> Iterator[M]: ...


class NamedModules(nn.ModuleDict, Generic[M]):
    """A ModuleDict that says of what."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> M: ...
        def items(self) -> ItemsView[str, M]: ...
        def values(self) -> ValuesView[M]: ...


class Fitted(nn.Module):
    """A module whose buffers start empty and take whatever shape a state dict brings.

    empty: names of float buffers.
    """

    def __init__(self, *empty: str) -> None:
        super().__init__()
        for name in empty:
            self.register_buffer(name, torch.empty(0))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            if prefix + name in state_dict:
                saved = state_dict[prefix + name]
                setattr(self, name, torch.empty(saved.shape, dtype=saved.dtype, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


class PerView(Modules[M]):
    """One fitted module for each view, since a mirrored product is another: one at first, or as many as were saved."""

    def __init__(self, make: Callable[[], M]) -> None:
        super().__init__([make()])
        self.make = make

    def reset(self, count: int) -> None:
        """`count` modules that nothing was fitted to."""
        self._modules.clear()
        self.extend(self.make() for _ in range(count))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = names_below(prefix, state_dict)
        if saved and len(saved) != len(self):
            self.reset(len(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)


def names_below(prefix: str, state_dict: Iterable[str]) -> set[str]:
    """Of the parts that a state dict holds of a module."""
    return {key.removeprefix(prefix).split(".")[0] for key in state_dict if key.startswith(prefix)}


TINY = 1e-12  # a variance below is rounding
WIDE, PARTS = 64, 4  # of triangular factors of more rows, so many parts are multiplied apart: most zeros are not read
NARROW = 8  # channels, up to which a product is written out
AT_ONCE = 32  # rows of each population that are added together
BLOCK = 1 << 18  # numbers of covariances that are inverted at a time


class Moments:
    """Streaming mean and covariance over rows, in float64."""

    def __init__(self) -> None:
        self.count, self.first, self.second = 0, torch.zeros(()), torch.zeros(())
        self._waiting: list[Tensor] = []

    def update(self, rows: Tensor) -> None:
        """rows: (..., N, C), also none; leading dimensions are separate populations."""
        if not rows.shape[-2]:  # all of a small batch is held back
            return
        self.count += rows.shape[-2]
        self._waiting.append(rows)
        if sum(part.shape[-2] for part in self._waiting) >= AT_ONCE:
            self._add()

    def _add(self) -> None:
        """Adds what waits: with many populations, reading and writing their sums takes longer than the products."""
        if not self._waiting:
            return
        rows, self._waiting = torch.cat(self._waiting, -2).double(), []
        if not self.second.ndim:
            self.first = torch.zeros_like(rows[..., 0, :])
            self.second = rows.new_zeros(*self.first.shape, rows.shape[-1])
        self.first += rows.sum(-2)
        (self.second.addmm_ if rows.ndim == 2 else self.second.baddbmm_)(rows.mT, rows)

    def update_all(self, features: Tensor) -> None:
        """Adds features (B, C, h, w), all places as one population."""
        self.update(features.movedim(1, -1).flatten(0, 2))

    def update_places(self, features: Tensor) -> None:
        """Adds features (B, C, h, w), each of the h * w places as a population of its own."""
        self.update(features.flatten(2).permute(2, 0, 1))

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean (..., C) and covariance (..., C, C). To be asked once: the sums, which are large of many places, become
        the covariance; those of a `spread` by 0 are its origin's, too.
        """
        self._add()
        mean = self.first / self.count
        covariance, self.second = self.second.div_(self.count), torch.zeros(())
        return mean, covariance.addcmul_(mean.unsqueeze(-1), mean.unsqueeze(-2), value=-1)

    def spread(self, grid: Sequence[int], reach: int | None) -> Moments:
        """Of populations that are the places of a grid: each with those of its neighbours up to `reach` places away.

        None makes one population of all. The count stays that of one place, since neighbours say nearly the same.
        """
        self._add()
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

    mean: Tensor
    matrix: Tensor

    def __init__(self, shrinkage: float = 0.01) -> None:
        super().__init__("mean", "matrix")
        self.shrinkage = shrinkage

    def fit(self, moments: Moments) -> None:
        mean, covariance = moments.mean_and_covariance()
        values, vectors = torch.linalg.eigh(covariance)
        scale = (values.clamp(min=0) + self.shrinkage * values.mean()).clamp_min(TINY).rsqrt()
        self.mean = mean.float()
        self.matrix = ((vectors * scale) @ vectors.T).float().contiguous()

    def forward(self, features: Tensor) -> Tensor:
        centred = features - self.mean.view(1, -1, 1, 1)
        return torch.einsum("bchw,cd->bdhw", centred, self.matrix)


class PrincipalSubspace(Fitted):
    """The squared distance of features (B, C, h, w) from the subspace of the OK features, at all places alike.

    Lendering, Akdag, Bondarev, "SubspaceAD: Training-Free Few-Shot Anomaly Detection via Subspace Modeling", CVPR 2026.
    Returns (B, 1, h, w), the mean over the directions that are left out. share: of the variance that the principal
    components hold.
    """

    mean: Tensor
    outside: Tensor

    def __init__(self, share: float = 0.99) -> None:
        super().__init__("mean", "outside")
        self.share = share

    def fit(self, moments: Moments) -> None:
        mean, covariance = moments.mean_and_covariance()
        values, vectors = torch.linalg.eigh(covariance)
        dropped = int((values.cumsum(0) <= (1 - self.share) * values.sum()).sum())
        self.mean, self.outside = mean.float(), vectors[:, : max(1, dropped)].T.float().contiguous()

    def forward(self, features: Tensor) -> Tensor:
        centred = features - self.mean.view(1, -1, 1, 1)
        return F.conv2d(centred, self.outside[:, :, None, None]).square().mean(1, keepdim=True)


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

    mean: Tensor
    precision_root: Tensor

    def __init__(self, shrinkage: float | str = "auto", ridge: float = 0.01) -> None:
        super().__init__("mean", "precision_root")
        self.shrinkage, self.ridge = shrinkage, ridge

    def fit(self, moments: Moments) -> None:
        mean, own = moments.mean_and_covariance()
        pooled = own.mean(0)
        identity = torch.eye(pooled.shape[0], dtype=own.dtype, device=own.device)
        scale = pooled.diagonal().mean()
        if scale <= TINY * mean.square().mean():  # of one image nothing varies: the spread over its positions stands in
            scale = mean.var(0, correction=0).mean()
        floor = self.ridge * scale.clamp_min(TINY) * identity
        self.mean, self.precision_root = mean.float(), torch.empty(own.shape, device=own.device)
        size = max(1, BLOCK // pooled.numel())  # at a time: what comes on the way is as large as all of them
        for part, root in zip(own.split(size), self.precision_root.split(size), strict=True):
            if isinstance(self.shrinkage, str):
                covariance = _shrunk(part, pooled + floor, moments.count)
            else:
                covariance = (1 - self.shrinkage) * part + self.shrinkage * pooled
            lower = torch.linalg.cholesky(covariance + floor)
            root.copy_(torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False))

    def forward(self, features: Tensor) -> Tensor:
        return self.deviations(features).square().mean(1, keepdim=True)

    def deviations(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape, uncorrelated and of unit variance where the model is right.

        By products with rows, (positions, B, C): of one image those with columns take three times as long.
        """
        batch, channels, height, width = features.shape
        grid = (height, width) if len(self.mean) > 1 else (1, 1)
        centred = features - self.mean.T.unflatten(1, grid)
        if channels <= NARROW:  # products this small take longer to call than to compute
            columns = self.precision_root.permute(2, 1, 0).unflatten(2, grid)
            return reduce(add, (centred[:, k : k + 1] * column for k, column in enumerate(columns)))
        rows = centred.permute(0, 2, 3, 1).flatten(1, 2).transpose(0, 1)
        rows = rows.contiguous()  # strided, each position would be copied apart
        bounds = [channels * part // PARTS for part in range(PARTS + 1)] if channels > WIDE else [0, channels]
        parts = (rows[..., :end] @ self.precision_root[:, start:end, :end].mT for start, end in pairwise(bounds))
        rows = torch.cat(list(parts), -1).transpose(0, 1)
        return rows.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def oas_share(covariance: Tensor, count: int) -> Tensor:
    """How far (...) to shrink each covariance (..., C, C) of `count` rows, or a matrix similar to it, towards its mean
    variance.

    Oracle approximating shrinkage (Chen, Wiesel, Eldar, Hero, "Shrinkage Algorithms for MMSE Covariance Estimation",
    IEEE Transactions on Signal Processing 2010), as scikit-learn's `oas` computes it.
    """
    channels = covariance.shape[-1]
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1).square()
    size = (covariance * covariance.mT).mean((-2, -1))
    spread = (count + 1) * (size - variance / channels)
    return torch.where(spread > 0, (size + variance) / spread.clamp_min(1e-300), 1.0).clamp(max=1)


def _shrunk(own: Tensor, pooled: Tensor, count: int) -> Tensor:
    """Covariances (P, C, C), each shrunk towards the pooled one (C, C) times its own scale.

    In the coordinates in which the pooled covariance is the identity, that is shrinkage towards the mean variance.
    """
    whitened = own @ torch.cholesky_inverse(
        torch.linalg.cholesky(pooled)
    )  # of W W^T = pooled, similar to W^-1 own W^-T
    share = oas_share(whitened, count)
    scale = share * whitened.diagonal(dim1=1, dim2=2).mean(1)
    return (1 - share).view(-1, 1, 1) * own + scale.view(-1, 1, 1) * pooled
