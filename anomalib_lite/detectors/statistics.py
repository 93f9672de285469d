"""Statistics of features: streaming moments, whitening, one Gaussian per position, and how they are saved."""

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
    """A typed ModuleList."""

    if TYPE_CHECKING:

        def __getitem__(self, idx: int) -> M: ...  # type: ignore[override]  # no slices
        def __iter__(self) -> Iterator[M]: ...


class NamedModules(nn.ModuleDict, Generic[M]):
    """A typed ModuleDict."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> M: ...
        def items(self) -> ItemsView[str, M]: ...
        def values(self) -> ValuesView[M]: ...


class Fitted(nn.Module):
    """A module whose buffers, `empty` by name, take their shapes from a state dict."""

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
    """One fitted module per view, because a mirrored product has other statistics; loads as many as were saved."""

    def __init__(self, make: Callable[[], M]) -> None:
        super().__init__([make()])
        self.make = make

    def reset(self, count: int) -> None:
        """Replaces the modules by `count` unfitted ones."""
        self._modules.clear()
        self.extend(self.make() for _ in range(count))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = child_names(prefix, state_dict)
        if saved and len(saved) != len(self):
            self.reset(len(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)


def child_names(prefix: str, state_dict: Iterable[str]) -> set[str]:
    """Returns the names of a module's direct children in a state dict."""
    return {key.removeprefix(prefix).split(".")[0] for key in state_dict if key.startswith(prefix)}


TINY = 1e-12  # variances below are rounding errors
WIDE, BLOCKS = 64, 4  # triangular factors of more rows are multiplied in so many blocks, which skips most zeros
NARROW = 8  # up to this many channels, a product is a sum over columns
AT_ONCE = 32  # rows of each population that are added together
BLOCK = 1 << 18  # numbers in the covariances that are inverted at a time


class Moments:
    """Streaming mean and covariance over rows, in float64."""

    def __init__(self) -> None:
        self.count, self.first, self.second = 0, torch.zeros(()), torch.zeros(())
        self._pending: list[Tensor] = []

    def update(self, rows: Tensor) -> None:
        """Adds rows (..., N, C); N may be 0. Leading dimensions are separate populations."""
        if not rows.shape[-2]:  # a small batch may hold only held-out images
            return
        self.count += rows.shape[-2]
        self._pending.append(rows)
        if sum(part.shape[-2] for part in self._pending) >= AT_ONCE:
            self._add()

    def _add(self) -> None:
        """Adds all pending rows at once, since reading and writing the sums takes longer than the products."""
        if not self._pending:
            return
        rows, self._pending = torch.cat(self._pending, -2).double(), []
        if not self.second.ndim:
            self.first = torch.zeros_like(rows[..., 0, :])
            self.second = rows.new_zeros(*self.first.shape, rows.shape[-1])
        self.first += rows.sum(-2)
        (self.second.addmm_ if rows.ndim == 2 else self.second.baddbmm_)(rows.mT, rows)

    def update_all(self, features: Tensor) -> None:
        """Adds features (B, C, h, w), all positions as one population."""
        self.update(features.movedim(1, -1).flatten(0, 2))

    def update_positions(self, features: Tensor) -> None:
        """Adds features (B, C, h, w), each of the h * w positions as a separate population."""
        self.update(features.flatten(2).permute(2, 0, 1))

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Returns the mean (..., C) and covariance (..., C, C); once only: the sums become the covariance."""
        self._add()
        mean = self.first / self.count
        covariance, self.second = self.second.div_(self.count), torch.zeros(())
        return mean, covariance.addcmul_(mean.unsqueeze(-1), mean.unsqueeze(-2), value=-1)

    def pooled(self, grid: Sequence[int], reach: int | None) -> Moments:
        """Pools the populations, which are the positions of a grid, with neighbours up to `reach` positions away.

        None pools all into one population. The count stays that of one position, since neighbours are highly
        correlated.
        """

        def mean(sums: Tensor) -> Tensor:  # (positions, ...)
            if reach is None:
                return sums.mean(0, keepdim=True)
            flat = sums.reshape(1, *grid, -1).movedim(-1, 1)
            around = F.avg_pool2d(flat, 2 * reach + 1, 1, reach, count_include_pad=False)
            return around.movedim(1, -1).reshape(sums.shape)

        self._add()
        result = Moments()
        result.count, result.first, result.second = self.count, mean(self.first), mean(self.second)
        return result


def moments_of(batches: Iterable[Sequence[Tensor]], by_position: bool = True) -> list[Moments]:
    """Sums up batches of several features (B, C, h, w): each position is one population, or all positions are."""
    moments: list[Moments] = []
    for batch in batches:
        moments = moments or [Moments() for _ in batch]
        for moment, features in zip(moments, batch, strict=True):
            (moment.update_positions if by_position else moment.update_all)(features)
    return moments


class Whitening(Fitted):
    """ZCA whitening of the channels of one feature level (Kessy, Lewin, Strimmer, The American Statistician 2018).

    Maps features (B, C, h, w) to the same shape with zero mean and identity covariance over all OK pixels, but for
    `shrinkage`, the share of the mean variance that is added to each eigenvalue. Every direction of the feature space
    then has the same weight in a squared distance.
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
    """Squared distance of features (B, C, h, w) from the principal subspace of the OK features: (B, 1, h, w).

    Lendering, Akdag, Bondarev, "SubspaceAD: Training-Free Few-Shot Anomaly Detection via Subspace Modeling", CVPR 2026.
    One subspace, which explains `share` of the variance, for all positions; the mean over the directions outside it.
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
    """A Gaussian over the channels for each position of an aligned product.

    Maps features (B, C, h, w) to the mean squared Mahalanobis distance over the channels (B, 1, h, w), 1 on average for
    OK images. After PaDiM (Defard et al., ICPR 2021, section III), with the covariance of each position shrunk towards
    the one pooled over all positions, so that few OK images suffice: by a share, or with `auto` by `oas_share`, which
    keeps the position's scale. `ridge` is the share of the pooled mean variance added to the diagonal.
    """

    mean: Tensor
    precision_root: Tensor

    def __init__(self, shrinkage: float | str = "auto", ridge: float = 0.01) -> None:
        super().__init__("mean", "precision_root")
        self.shrinkage, self.ridge = shrinkage, ridge

    def fit(self, moments: Moments) -> None:
        mean, covariances = moments.mean_and_covariance()
        pooled = covariances.mean(0)
        identity = torch.eye(pooled.shape[0], dtype=covariances.dtype, device=covariances.device)
        scale = pooled.diagonal().mean()
        if scale <= TINY * mean.square().mean():  # one image has no variance: use the variance over its positions
            scale = mean.var(0, correction=0).mean()
        floor = self.ridge * scale.clamp_min(TINY) * identity
        self.mean, self.precision_root = mean.float(), torch.empty(covariances.shape, device=covariances.device)
        size = max(1, BLOCK // pooled.numel())  # in blocks: intermediate results are as large as the input
        for part, root in zip(covariances.split(size), self.precision_root.split(size), strict=True):
            if isinstance(self.shrinkage, str):
                covariance = _shrunk(part, pooled + floor, moments.count)
            else:
                covariance = (1 - self.shrinkage) * part + self.shrinkage * pooled
            lower = torch.linalg.cholesky(covariance + floor)
            root.copy_(torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False))

    def forward(self, features: Tensor) -> Tensor:
        return self.deviations(features).square().mean(1, keepdim=True)

    def deviations(self, features: Tensor) -> Tensor:
        """Whitens features (B, C, h, w): uncorrelated and of unit variance where the Gaussian fits.

        Multiplies rows (positions, B, C), because for single images products with columns take three times as long.
        """
        batch, channels, height, width = features.shape
        grid = (height, width) if len(self.mean) > 1 else (1, 1)
        centred = features - self.mean.T.unflatten(1, grid)
        if channels <= NARROW:  # such small products cost more to call than to compute
            columns = self.precision_root.permute(2, 1, 0).unflatten(2, grid)
            return reduce(add, (centred[:, k : k + 1] * column for k, column in enumerate(columns)))
        rows = centred.permute(0, 2, 3, 1).flatten(1, 2).transpose(0, 1)
        rows = rows.contiguous()  # otherwise each position is copied separately
        bounds = [channels * part // BLOCKS for part in range(BLOCKS + 1)] if channels > WIDE else [0, channels]
        parts = (rows[..., :end] @ self.precision_root[:, start:end, :end].mT for start, end in pairwise(bounds))
        rows = torch.cat(list(parts), -1).transpose(0, 1)
        return rows.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def oas_share(covariance: Tensor, count: int) -> Tensor:
    """Returns how far (...) to shrink each covariance (..., C, C) of `count` rows towards its mean variance.

    Oracle approximating shrinkage (Chen, Wiesel, Eldar, Hero, "Shrinkage Algorithms for MMSE Covariance Estimation",
    IEEE Transactions on Signal Processing 2010), as in scikit-learn's `oas`. Takes matrices similar to covariances too.
    """
    channels = covariance.shape[-1]
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1).square()
    size = (covariance * covariance.mT).mean((-2, -1))
    spread = (count + 1) * (size - variance / channels)
    return torch.where(spread > 0, (size + variance) / spread.clamp_min(1e-300), 1.0).clamp(max=1)


def _shrunk(covariances: Tensor, pooled: Tensor, count: int) -> Tensor:
    """Shrinks covariances (P, C, C) towards the pooled one (C, C), scaled to each covariance.

    In coordinates in which the pooled covariance is the identity, this is shrinkage towards the mean variance.
    """
    # similar to W^-1 covariance W^-T, where W W^T = pooled
    whitened = covariances @ torch.cholesky_inverse(torch.linalg.cholesky(pooled))
    share = oas_share(whitened, count)
    scale = share * whitened.diagonal(dim1=1, dim2=2).mean(1)
    return (1 - share).view(-1, 1, 1) * covariances + scale.view(-1, 1, 1) * pooled
