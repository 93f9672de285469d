"""The student's residual on OK images: Gaussians over groups of feature levels, and the choice between such models."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from anomalib_lite.augment.synthetic import drawn_batches
from anomalib_lite.augment.tta import View
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.levels import fuse, size_of, stack
from anomalib_lite.detectors.model import Batches, Finish
from anomalib_lite.detectors.statistics import Modules, Moments, NamedModules, PositionGaussian, names_below
from anomalib_lite.errors import UserError
from anomalib_lite.metrics import ImageMetrics, PixelMetrics
from anomalib_lite.settings.detectors import FUSION

log = logging.getLogger(__name__)
Residuals = Callable[[Batch, View], list[Tensor]]
CRITERIA = ("image_auroc", "pixel_auroc", "aupro")


class ResidualModel(nn.Module):
    """Features of several levels -> one map of Mahalanobis distances.

    groups: which levels share one Gaussian; a group's levels are brought to the grid of its coarsest one (averaged
    down) and stacked, so that what they say together counts. The groups' maps are fused (see `levels.fuse`).
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
        if fusion not in FUSION:  # the settings of a candidate of one's own have no ranges
            raise UserError(f"A candidate's fusion must be {' or '.join(FUSION)}, not '{fusion}'.")
        self.groups = [list(group) for group in groups]
        self.fusion = fusion
        self.gaussians = Modules[PositionGaussian](PositionGaussian(shrinkage, ridge) for _ in self.groups)

    def keep(self, levels: int) -> bool:
        """Drops from the groups what lies beyond so many levels; False where nothing is left."""
        groups = [[level for level in group if level < levels] for group in self.groups]
        self.groups = [group for group in groups if group]
        del self.gaussians[len(self.groups) :]  # not fitted yet, they are all alike
        return bool(self.groups)

    def fit(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """batches: the levels' features (B, C_l, h_l, w_l) of OK images."""
        moments = [Moments() for _ in self.groups]
        for features in batches:
            for own, group in zip(moments, self.groups, strict=True):
                own.update_places(self._stack(features, group))
        for gaussian, own in zip(self.gaussians, moments, strict=True):
            gaussian.fit(own)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Levels' features -> (B, 1, h, w), the finest group's grid."""
        maps = [g(self._stack(features, group)) for g, group in zip(self.gaussians, self.groups, strict=True)]
        return fuse(maps, self.fusion)

    @staticmethod
    def _stack(features: Sequence[Tensor], group: Sequence[int]) -> Tensor:
        taken = [features[level] for level in group]
        return stack(taken, min((size_of(f) for f in taken), key=lambda s: s[0] * s[1]))


class SelectedResidualModel(nn.Module):
    """One of several residual models, the one that best finds defects drawn into OK images.

    Where the product is aligned and its surface smooth, fine levels sharpen the map; on a coarse texture they drown it.
    Which of the two a product is, its OK images tell: each candidate is fitted on most of the training images and tried
    on the rest, as they are and with synthetic defects; the best by the mean of image AUROC, pixel AUROC and AUPRO is
    fitted again on all. Neither the images held out for the threshold nor any test image is looked at.

    candidates: by name. choose: a candidate's name, or `auto`. folds: one in so many training images is tried on.
    synthetic: how many defective images are drawn.
    """

    def __init__(
        self,
        candidates: Mapping[str, ResidualModel],
        choose: str = "auto",
        folds: int = 5,
        synthetic: int = 160,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if choose not in ("auto", *candidates):
            raise UserError(f"detector.gaussian.choose must be auto or one of {', '.join(candidates)}, not '{choose}'.")
        self.candidates = NamedModules[ResidualModel](candidates if choose == "auto" else {choose: candidates[choose]})
        self.views = Modules[ResidualModel]()  # the chosen one's twins, for the second view and those after it
        self.folds, self.synthetic, self.seed = folds, synthetic, seed
        self.trials: dict[str, dict[str, float]] = {}

    def keep(self, levels: int) -> None:
        """Fits the candidates to a backbone with so many layers: fewer than their groups name leave the others.

        Errors: UserError where no candidate has a group left.
        """
        named = max(level for model in self.candidates.values() for group in model.groups for level in group)
        if named < levels:
            return
        log.warning(
            "detector.gaussian names the backbone's layers 0 to %d by their place, and backbone.layers gives %d: the "
            "residual models work with those", named, levels,
        )  # fmt: skip
        self._take({name for name, model in self.candidates.items() if model.keep(levels)})
        if not self.candidates:
            raise UserError(
                f"No group of detector.gaussian.candidates names one of the {levels} layers of backbone.layers, "
                f"0 to {levels - 1}: change their groups, or set detector.gaussian to null."
            )

    def forward(self, features: Sequence[Tensor], view: int = 0) -> Tensor:
        (model,) = self.candidates.values()
        return (self.views[view - 1] if view else model)(features)

    def fit(self, batches: Batches, residuals: Residuals, finish: Finish, views: Sequence[View] = (View(),)) -> None:
        """residuals: of a batch in a view, by level. finish: a coarse map and the image's size -> the finished
        prediction. Chosen in the first view; each view has Gaussians of its own, since a mirrored product is another.
        """
        if len(self.candidates) > 1:
            self._choose(batches, residuals, finish, views[0])
        (model,) = self.candidates.values()
        self.views = Modules(deepcopy(model) for _ in views[1:])
        for own, view in zip((model, *self.views), views, strict=True):
            seen = tqdm(batches, f"calibrate {view.label}", delay=2, leave=False)
            own.fit(residuals(batch, view) for batch in seen)

    def _choose(self, batches: Batches, residuals: Residuals, finish: Finish, view: View) -> None:
        images = batches.dataset
        tried = list(range(0, len(images), self.folds))
        single = len(images) == 1  # both learned from and tried on
        for model in self.candidates.values():
            model.fit([f[(b.index % self.folds != 0) | single] for f in residuals(b, view)] for b in batches)
        trials = {name: (ImageMetrics(), PixelMetrics()) for name in self.candidates}
        for batch in drawn_batches(images, tried, self.synthetic, np.random.default_rng(self.seed)):
            features = residuals(batch, view)
            for name, (by_image, by_pixel) in trials.items():
                coarse = view.undo(self.candidates[name](features))  # the masks are of the image as it is
                map, score = finish(coarse, batch.image.shape[-2:])
                by_image.update(score.cpu(), batch.label.tolist())
                by_pixel.update(map.cpu(), batch.mask, batch.label.tolist())
        for name, (by_image, by_pixel) in trials.items():
            self.trials[name] = {key: round(value, 4) for key, value in figures(by_image, by_pixel).items()}
        best = max(self.trials, key=lambda name: sum(self.trials[name].values()))
        told = "; ".join(f"{k} {', '.join(f'{v:.4f}' for v in own.values())}" for k, own in self.trials.items())
        log.info("residual model '%s' finds drawn defects best (image AUROC, pixel AUROC, AUPRO: %s)", best, told)
        self._take({best})

    def _take(self, names: Collection[str]) -> None:
        """Leaves these candidates alone."""
        self.candidates = NamedModules[ResidualModel]({n: m for n, m in self.candidates.items() if n in names})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A saved model holds the chosen candidate alone, and one twin of it for each further view."""
        if stored := names_below(f"{prefix}candidates.", state_dict):
            self._take(stored)
            twins = names_below(f"{prefix}views.", state_dict)
            # while training goes on nothing is chosen yet, and there are no twins
            self.views = Modules(deepcopy(next(iter(self.candidates.values()))) for _ in twins)
        super()._load_from_state_dict(state_dict, prefix, *args)


def figures(by_image: ImageMetrics, by_pixel: PixelMetrics) -> dict[str, float]:
    """What choices between settings go by; one that cannot be had counts as 0."""
    values = by_image.compute().values | by_pixel.compute().values
    return {key: values[key] or 0.0 for key in CRITERIA}
