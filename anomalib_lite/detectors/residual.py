"""Gaussians over groups of levels that model a student's residual on OK images, and the choice between such models."""

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
from anomalib_lite.detectors.statistics import Modules, NamedModules, PositionGaussian, child_names, moments_of
from anomalib_lite.errors import UserError
from anomalib_lite.metrics import ImageMetrics, PixelMetrics
from anomalib_lite.settings.detectors import FUSION

log = logging.getLogger(__name__)
Residuals = Callable[[Batch, View], list[Tensor]]
CRITERIA = ("image_auroc", "pixel_auroc", "aupro")


class ResidualModel(nn.Module):
    """Maps the features of several levels to one map of Mahalanobis distances, fused as by `levels.fuse`.

    Each group of levels, given by their indices, shares a Gaussian: they are averaged down to the group's coarsest grid
    and stacked, so that correlations between levels count. For `shrinkage` and `ridge` see PositionGaussian.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        shrinkage: float | str = "auto",
        ridge: float = 0.01,
        fusion: str = "product",
    ) -> None:
        super().__init__()
        if fusion not in FUSION:  # custom candidates are not validated by the settings
            raise UserError(f"A candidate's fusion must be {' or '.join(FUSION)}, not '{fusion}'.")
        self.groups, self.fusion = [list(group) for group in groups], fusion
        self.gaussians = Modules[PositionGaussian](PositionGaussian(shrinkage, ridge) for _ in self.groups)

    def restrict_to(self, levels: int) -> bool:
        """Drops levels beyond this number from the groups; returns whether any group is left."""
        groups = [[level for level in group if level < levels] for group in self.groups]
        self.groups = [group for group in groups if group]
        del self.gaussians[len(self.groups) :]  # unfitted Gaussians are all equal
        return bool(self.groups)

    def fit(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Fits to batches of the levels' features (B, C_l, h_l, w_l) of OK images."""
        moments = moments_of([self._stack(features, group) for group in self.groups] for features in batches)
        for gaussian, own in zip(self.gaussians, moments, strict=True):
            gaussian.fit(own)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps the levels' features to (B, 1, h, w) on the finest group's grid."""
        maps = [g(self._stack(features, group)) for g, group in zip(self.gaussians, self.groups, strict=True)]
        return fuse(maps, self.fusion)

    @staticmethod
    def _stack(features: Sequence[Tensor], group: Sequence[int]) -> Tensor:
        levels = [features[level] for level in group]
        return stack(levels, min((size_of(f) for f in levels), key=lambda s: s[0] * s[1]))


class SelectedResidualModel(nn.Module):
    """Selects the one of several residual models that best finds defects drawn into OK images.

    On aligned products with smooth surfaces, fine levels sharpen the map; on coarse textures they add noise. The
    selection fits each candidate on most of the training images and evaluates it on the rest, with and without drawn
    defects. The candidate with the best mean of image AUROC, pixel AUROC and AUPRO is fitted again on all training
    images. Neither validation nor test images are used. Options: `settings.detectors.SelectedResidual`.
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
        self.views = Modules[ResidualModel]()  # copies of the selected model for the second view onwards
        self.folds, self.synthetic, self.seed = folds, synthetic, seed
        self.trials: dict[str, dict[str, float]] = {}

    def restrict_to(self, levels: int) -> None:
        """Restricts the candidates to a backbone with this number of layers; raises UserError if no group is left."""
        named = max(level for model in self.candidates.values() for group in model.groups for level in group)
        if named < levels:
            return
        log.warning(
            "detector.gaussian uses backbone layers up to index %d, but backbone.layers has only %d: the residual "
            "models use these", named, levels,
        )  # fmt: skip
        self._select({name for name, model in self.candidates.items() if model.restrict_to(levels)})
        if not self.candidates:
            raise UserError(
                f"No group of detector.gaussian.candidates uses one of the {levels} layers of backbone.layers, "
                f"0 to {levels - 1}: change their groups, or set detector.gaussian to null."
            )

    def forward(self, features: Sequence[Tensor], view: int = 0) -> Tensor:
        (model,) = self.candidates.values()
        return (self.views[view - 1] if view else model)(features)

    def fit(
        self,
        batches: Batches,
        residuals: Residuals,
        finish: Finish,
        views: Sequence[View] = (View(),),
        region: Tensor | None = None,
    ) -> None:
        """Selects a candidate in the first view, then fits it to batches of OK images, separately for each view.

        `residuals` computes the residuals by level of a batch in a view. For `finish` see `Method.calibrate`, for
        `region` see `Method`.
        """
        if len(self.candidates) > 1:
            self._choose(batches, residuals, finish, views[0], region)
        (model,) = self.candidates.values()
        self.views = Modules(deepcopy(model) for _ in views[1:])
        for candidate, view in zip((model, *self.views), views, strict=True):
            progress = tqdm(batches, f"calibrate {view.label}", delay=2, leave=False)
            candidate.fit(residuals(batch, view) for batch in progress)

    def _choose(
        self, batches: Batches, residuals: Residuals, finish: Finish, view: View, region: Tensor | None
    ) -> None:
        images = batches.dataset
        held_out = list(range(0, len(images), self.folds))
        single = len(images) == 1  # used for fitting and for evaluation
        for model in self.candidates.values():
            model.fit([f[(b.index % self.folds != 0) | single] for f in residuals(b, view)] for b in batches)
        trials = {name: (ImageMetrics(), PixelMetrics()) for name in self.candidates}
        rng = np.random.default_rng(self.seed)
        for batch in drawn_batches(images, held_out, self.synthetic, rng, region=region):
            features, labels, counted = residuals(batch, view), batch.label.tolist(), batch.counted(region)
            for name, (by_image, by_pixel) in trials.items():
                coarse = view.undo(self.candidates[name](features))  # masks belong to the original view
                maps, score = finish(coarse, batch.image.shape[-2:], batch.inside)
                by_image.update(score.cpu(), labels)
                by_pixel.update(maps.cpu(), batch.mask, labels, counted=counted)
        for name, (by_image, by_pixel) in trials.items():
            self.trials[name] = {key: round(value, 4) for key, value in figures(by_image, by_pixel).items()}
        best = max(self.trials, key=lambda name: sum(self.trials[name].values()))
        summary = "; ".join(f"{k} {', '.join(f'{v:.4f}' for v in row.values())}" for k, row in self.trials.items())
        log.info("residual model '%s' finds drawn defects best (image AUROC, pixel AUROC, AUPRO: %s)", best, summary)
        self._select({best})

    def _select(self, names: Collection[str]) -> None:
        """Keeps only these candidates."""
        self.candidates = NamedModules[ResidualModel]({n: m for n, m in self.candidates.items() if n in names})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Keeps the saved candidate only, with one copy for each saved view."""
        if saved := child_names(f"{prefix}candidates.", state_dict):
            self._select(saved)
            copies = child_names(f"{prefix}views.", state_dict)
            # a checkpoint from during training has all candidates and no copies
            self.views = Modules(deepcopy(next(iter(self.candidates.values()))) for _ in copies)
        super()._load_from_state_dict(state_dict, prefix, *args)


def figures(by_image: ImageMetrics, by_pixel: PixelMetrics) -> dict[str, float]:
    """Returns the metrics that selections are based on; metrics that cannot be computed count as 0."""
    values = by_image.compute().values | by_pixel.compute().values
    return {key: values[key] or 0.0 for key in CRITERIA}
