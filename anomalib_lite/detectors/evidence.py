"""Evidence: scores each position of one feature map, fitted on OK images only."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.detectors.coreset import Bank
from anomalib_lite.detectors.feature_maps import NAMES
from anomalib_lite.detectors.statistics import Fitted, PositionGaussian, PrincipalSubspace, moments_of
from anomalib_lite.errors import UserError
from anomalib_lite.scoring.maps import enlarged

FEW = 8  # images needed for the permutation test
BLOCK = 8  # images per pass
PERMUTATIONS = 39  # of the permutation test: each rotates all OK images at random
LOW, HIGH = 0.1, 0.5  # position shares below and above which no permutation test is needed


class Evidence(Fitted):
    """Base of a fusion's members. A subclass defines `fit` and `distance`.

    It scores the feature map `of`, see `feature_maps.FeatureExtractor`; `blur` is the sigma in px by which its map is
    smoothed, for an image of 256 px. `uses_position`: fits separate statistics for each position of aligned products.
    """

    uses_position = False

    def __init__(self, of: str, blur: float = 0.0) -> None:
        super().__init__()
        if of not in NAMES:
            raise UserError(f"`of` must be one of {', '.join(NAMES)}, not '{of}'.")
        self.of, self.blur = of, blur

    def fit(self, features: Tensor, aligned: bool) -> None:
        """Fits to OK features (N, C, h, w). `aligned`: a position shows the same part of the product in all images."""
        raise NotImplementedError(f"{type(self).__name__} must define fit")

    def distance(self, features: Tensor) -> Tensor:
        """Maps features (B, C, h, w) to distances (B, 1, h, w) >= 0."""
        raise NotImplementedError(f"{type(self).__name__} must define distance")

    def smoothed(self, distance: Tensor, grid: Sequence[int]) -> Tensor:
        """Enlarges distances (B, 1, h, w) to (B, 1, *grid), smooths them and takes the logarithm."""
        return enlarged(distance, grid, self.blur * min(grid) / 256, 3, "edge").clamp_min(1e-9).log()


class Gaussians(Evidence):
    """Squared Mahalanobis distance from a Gaussian at each position, or from one Gaussian for all positions."""

    uses_position = True

    def __init__(self, of: str, blur: float = 0.0, ridge: float = 0.01) -> None:
        super().__init__(of, blur)
        self.gaussian = PositionGaussian("auto", ridge)

    def fit(self, features: Tensor, aligned: bool) -> None:
        (moments,) = moments_of([part.float()] for part in features.split(4 * BLOCK))
        self.gaussian.fit(moments if aligned else moments.pooled(features.shape[-2:], None))

    def distance(self, features: Tensor) -> Tensor:
        return self.gaussian(features)

    def deviations(self, features: Tensor) -> Tensor:
        """Whitens features (B, C, h, w): uncorrelated and of unit variance over the OK images."""
        return self.gaussian.deviations(features.float())


class Neighbours(Evidence):
    """Cosine distance to the nearest stored patch, of features averaged over 3 x 3 positions.

    After PatchCore (Roth et al., CVPR 2022), with a bank of so many patches drawn at random. `radius` (RAD, 2026) and
    `density` (LDKNN) are those of `coreset.Bank`; the radius counts for aligned products only.
    """

    def __init__(
        self, of: str = "deep", blur: float = 0.0, bank: int = 4000, radius: int | None = None, density: int = 0
    ) -> None:
        super().__init__(of, blur)
        self.size, self.radius, self.density = bank, radius, density
        self.bank = Bank(cosine=True)

    def fit(self, features: Tensor, aligned: bool) -> None:
        self.bank.radius = self.radius if aligned else None
        generator = torch.Generator().manual_seed(len(features))
        quota = min(features[0, 0].numel(), max(1, -(-self.size // len(features))))
        drawn = []
        for part in features.split(BLOCK):
            rows = F.normalize(self._averaged(part.float()), dim=1).flatten(2).transpose(1, 2)
            if self.bank.radius is None:
                chosen = torch.rand(rows.shape[:2], generator=generator).topk(quota).indices
                rows = rows.gather(1, chosen[:, :, None].expand(-1, -1, rows.shape[2]))
            drawn.append(rows)
        whole = torch.cat(drawn)
        drawn.clear()
        patches = whole.flatten(0, 1)[: self.size] if self.bank.radius is None else whole.transpose(0, 1)
        self.bank.store(patches.contiguous(), patches, self.density)

    def distance(self, features: Tensor) -> Tensor:
        self.bank.radius = self.radius if self.bank.patches.dim() == 3 else None  # as the loaded state was fitted
        return self.bank(self._averaged(features))

    @staticmethod
    def _averaged(features: Tensor) -> Tensor:
        return F.avg_pool2d(features, 3, 1, 1, count_include_pad=False)


class Subspace(Evidence):
    """Squared residual outside the principal components that explain a `share` of the variance, for all positions."""

    def __init__(self, of: str = "deep", blur: float = 0.0, share: float = 0.99) -> None:
        super().__init__(of, blur)
        self.subspace = PrincipalSubspace(share)

    def fit(self, features: Tensor, aligned: bool) -> None:
        self.subspace.fit(*moments_of(([part.float()] for part in features.split(BLOCK)), by_position=False))

    def distance(self, features: Tensor) -> Tensor:
        return self.subspace(features)


class Whole(Evidence):
    """Squared Mahalanobis distance of the image's mean feature, the same at each position (PUAD, 2024)."""

    def __init__(self, of: str = "deep", ridge: float = 0.01) -> None:
        super().__init__(of)
        self.gaussian = PositionGaussian("auto", ridge)

    def fit(self, features: Tensor, aligned: bool) -> None:
        self.gaussian.fit(*moments_of([[features.float().mean((2, 3), keepdim=True)]]))

    def distance(self, features: Tensor) -> Tensor:
        return self.gaussian(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])


def position_share(feature_maps: Sequence[Tensor]) -> float:
    """Returns the share of the OK features' variance that position explains, from 0 (unaligned) to 1 (aligned).

    The unbiased effect size (omega squared) of a one-way analysis of variance with the positions as groups, averaged
    over the channels of each feature map (N, C, h, w) and over the maps.
    """
    shares = []
    for features in feature_maps:
        count = len(features)
        variance, mean = features.float().var(0), features.float().mean(0)  # (C, h, w)
        within = variance.mean((1, 2))
        between = (mean.var((1, 2)) - within / count).clamp_min(0)
        shares.append(float((between / (between + within).clamp_min(1e-12)).mean()))
    return sum(shares) / len(shares)


def position_matters(turned: Sequence[Sequence[Tensor]], seed: int) -> tuple[float, bool]:
    """Returns the position share (see `position_share`), and whether positions are worth their own statistics.

    A permutation test: rotating unaligned products at random changes nothing, so the share must exceed that of all
    random rotations. Shares above HIGH always count, because a symmetric product hides its alignment from rotations;
    shares below LOW never count, because image borders alone cause some. `turned` holds the feature maps (N, C, h, w)
    of the same images for each rotation, the first without rotation.
    """
    share, count = position_share(turned[0]), len(turned[0][0])
    if share < LOW or count < FEW or share > HIGH:
        return share, share >= LOW
    rng, index = np.random.default_rng(seed), torch.arange(count)
    stacked = [torch.stack(maps) for maps in zip(*turned, strict=True)]  # (rotations, N, C, h, w) by feature map
    draws = (torch.from_numpy(rng.integers(0, len(turned), count)) for _ in range(PERMUTATIONS))
    return share, all(share > position_share([maps[turns, index] for maps in stacked]) for turns in draws)
