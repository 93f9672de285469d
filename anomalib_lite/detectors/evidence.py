"""Evidence: what one look at an image says of each place, in logarithms, learned from OK images alone."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.detectors.coreset import Bank
from anomalib_lite.detectors.looks import NAMES
from anomalib_lite.detectors.statistics import Fitted, Moments, PositionGaussian, PrincipalSubspace
from anomalib_lite.errors import UserError
from anomalib_lite.scoring.separable import enlarged

FEW = 8  # images; of fewer, nothing is asked of random turns
BLOCK = 8  # images that are handled at once
TURNS = 39  # random turns of the OK images
LEAST, SURE = 0.1, 0.5  # shares of the place below and above which nothing is asked


class Evidence(Fitted):
    """Base of a fusion's members. A subclass gives `fit` and `distance`.

    Args:
        of: The look it judges by, see `looks.Looker`.
        blur: Px over which its map is smoothed, at an image of 256 px.

    knows_place: whether it has statistics of each place, where a place means the same in all images.
    """

    knows_place = False

    def __init__(self, of: str, blur: float = 0.0) -> None:
        super().__init__()
        if of not in NAMES:
            raise UserError(f"An evidence is `of` one of {', '.join(NAMES)}, not '{of}'.")
        self.of, self.blur = of, blur

    def fit(self, looks: Tensor, placed: bool) -> None:
        """looks: (N, C, h, w) of OK images. placed: whether a place means the same in all images."""
        raise NotImplementedError(f"{type(self).__name__} must define fit")

    def distance(self, looks: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 1, h, w) >= 0."""
        raise NotImplementedError(f"{type(self).__name__} must define distance")

    def smoothed(self, distance: Tensor, grid: Sequence[int]) -> Tensor:
        """Distances (B, 1, h, w) -> the logarithm of their smoothed map (B, 1, *grid)."""
        return enlarged(distance, grid, self.blur * min(grid) / 256, 3, "edge").clamp_min(1e-9).log()


class Gaussians(Evidence):
    """The squared Mahalanobis distance from a Gaussian at each place, or from one for all places."""

    knows_place = True

    def __init__(self, of: str, blur: float = 0.0, ridge: float = 0.01) -> None:
        super().__init__(of, blur)
        self.gaussian = PositionGaussian("auto", ridge)

    def fit(self, looks: Tensor, placed: bool) -> None:
        moments = Moments()
        for part in looks.split(4 * BLOCK):  # few large products: each goes through all covariances
            moments.update_places(part.float())
        self.gaussian.fit(moments if placed else moments.spread(looks.shape[-2:], None))

    def distance(self, looks: Tensor) -> Tensor:
        return self.gaussian(looks)

    def deviations(self, looks: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape, uncorrelated and of unit variance over the OK images."""
        return self.gaussian.deviations(looks.float())


class Neighbours(Evidence):
    """The distance to the nearest remembered patch, of directions averaged over 3 x 3 places.

    After PatchCore (Roth et al., CVPR 2022), with a bank that is drawn.

    Args:
        bank: Patches that are remembered.
        radius: Compares a place with patches of up to so many places beside it alone, of all images, as RAD (2026);
            None, or where a place means nothing: from anywhere.
        density: Neighbours whose mean distance from a remembered patch is taken off that patch's (LDKNN); 0: nothing.
    """

    def __init__(
        self, of: str = "deep", blur: float = 0.0, bank: int = 4000, radius: int | None = None, density: int = 0
    ) -> None:
        super().__init__(of, blur)
        self.size, self.radius, self.density = bank, radius, density
        self.bank = Bank(cosine=True)

    def fit(self, looks: Tensor, placed: bool) -> None:
        near = placed and self.radius is not None
        quota = looks[0, 0].numel() if near else max(1, -(-self.size // len(looks)))
        generator = torch.Generator().manual_seed(len(looks))
        drawn = []
        for part in looks.split(BLOCK):
            rows = F.normalize(self._averaged(part.float()), dim=1).flatten(2).transpose(1, 2)
            if near:
                drawn.append(rows.transpose(0, 1))
                continue
            order = torch.rand(rows.shape[:2], generator=generator).topk(min(quota, rows.shape[1])).indices
            drawn.append(rows.gather(1, order[:, :, None].expand(-1, -1, rows.shape[2])).flatten(0, 1))
        patches = torch.cat(drawn, 1 if near else 0)
        patches = patches if near else patches[: self.size]
        self.bank.radius = self.radius if near else None
        self.bank.remember(patches.contiguous(), patches, self.density)

    def distance(self, looks: Tensor) -> Tensor:
        self.bank.radius = self.radius if self.bank.patches.dim() == 3 else None  # as what was loaded was fitted
        return self.bank(self._averaged(looks))

    @staticmethod
    def _averaged(looks: Tensor) -> Tensor:
        return F.avg_pool2d(looks, 3, 1, 1, count_include_pad=False)


class Subspace(Evidence):
    """The squared residual outside the principal components of the OK images' looks, at all places together.

    share: of the variance that the components hold.
    """

    def __init__(self, of: str = "deep", blur: float = 0.0, share: float = 0.99) -> None:
        super().__init__(of, blur)
        self.subspace = PrincipalSubspace(share)

    def fit(self, looks: Tensor, placed: bool) -> None:
        moments = Moments()
        for part in looks.split(BLOCK):
            moments.update_all(part.float())
        self.subspace.fit(moments)

    def distance(self, looks: Tensor) -> Tensor:
        return self.subspace(looks)


class Whole(Evidence):
    """The image as a whole: the squared Mahalanobis distance of the mean look, the same at each place (PUAD, 2024)."""

    def __init__(self, of: str = "deep", ridge: float = 0.01) -> None:
        super().__init__(of)
        self.gaussian = PositionGaussian("auto", ridge)

    def fit(self, looks: Tensor, placed: bool) -> None:
        moments = Moments()
        moments.update_places(looks.float().mean((2, 3), keepdim=True))
        self.gaussian.fit(moments)

    def distance(self, looks: Tensor) -> Tensor:
        return self.gaussian(looks.mean((2, 3), keepdim=True)).expand(-1, -1, *looks.shape[-2:])


def share_of_place(looks: Sequence[Tensor]) -> float:
    """The share of the OK images' variance that is explained by the place alone, from 0 (anyhow) to 1 (aligned).

    Of a one-way analysis of variance with the places as groups, unbiased (omega squared), averaged over the channels
    of each of the looks (N, C, h, w), and over the looks.
    """
    shares = []
    for look in looks:
        count = len(look)
        own, mean = look.float().var(0), look.float().mean(0)  # (C, h, w)
        within = own.mean((1, 2))
        between = (mean.var((1, 2)) - within / count).clamp_min(0)
        shares.append(float((between / (between + within).clamp_min(1e-12)).mean()))
    return sum(shares) / len(shares)


def place_counts(turned: Sequence[Sequence[Tensor]], seed: int) -> tuple[float, bool]:
    """The share of the place (see `share_of_place`), and whether the place means something.

    If products lie anyhow, turning each of them at random changes nothing: a permutation test over the OK images, in
    which the share must exceed that of all random turns. A share so large that only its symmetry can hide a product's
    position counts in any case, and one that is tiny never: borders of an image have one.

    Args:
        turned: By turn, the first as the images are: looks (N, C, h, w) of the same images.
        seed: Draws the turns.
    """
    share, count = share_of_place(turned[0]), len(turned[0][0])
    if share < LEAST or count < FEW or share > SURE:
        return share, share >= LEAST
    rng, every = np.random.default_rng(seed), torch.arange(count)
    stacked = [torch.stack(look) for look in zip(*turned, strict=True)]  # (turns, N, C, h, w) by look
    picks = (torch.from_numpy(rng.integers(0, len(turned), count)) for _ in range(TURNS))
    return share, all(share > share_of_place([look[pick, every] for look in stacked]) for pick in picks)
