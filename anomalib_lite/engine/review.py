"""OK folders that hold some NOK: each image judged by models that have not seen it."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomalib_lite.data.images import ImageSet, loader, to_pixels
from anomalib_lite.data.sample import Outcome, Splits
from anomalib_lite.detectors.model import Model
from anomalib_lite.engine.evaluate import run_over
from anomalib_lite.engine.trainer import OnDevice
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)
FOLDS = 5  # parts that the images are dealt into


@dataclass(frozen=True)
class Reviewer:
    """Cross-fitting: a model of each fold's complement judges the fold, so that no image vouches for itself.

    Attributes:
        make: Makes an untrained model whose method trains nothing by gradient.
        share: Of the images that looked worst, left out when the models are fitted a second time, so that NOK images
            among them do not pass for normal; 0: one round.
    """

    make: Callable[[], Model]
    device: torch.device
    batch_size: int
    seed: int = 0
    share: float = 0.0

    def scores(self, images: ImageSet) -> np.ndarray:
        """(n,): an image's score over the median of its fold, 1 being usual.

        Errors: UserError for a method that trains, and for too few images.
        """
        if len(images) < 2 * FOLDS:
            raise UserError(f"{len(images)} OK images are too few for {FOLDS} folds: {2 * FOLDS} are needed.")
        fold = np.random.default_rng(self.seed).permutation(len(images)) % FOLDS
        scores = self._round(images, fold, np.zeros(len(images), bool))
        return self._round(images, fold, worst(scores, self.share)) if self.share else scores

    def outcomes(self, images: ImageSet, most: int) -> list[Outcome]:
        """All images, the least usual first; the first `most` with picture and map, of the models of all the others."""
        scores = self.scores(images)
        order, most = np.argsort(-scores, kind="stable").tolist(), min(most, len(images) // 2)
        model = self._fitted(images, order[most:])
        batches, pictures = loader(images.part(order[:most]), model.at_once(self.batch_size)), list[Any]()
        for batch, prediction in run_over(model, batches, "draw the worst"):
            pictures += zip(to_pixels(batch.image), prediction.map[:, 0].numpy(), strict=True)
        pictures += [(None, None)] * (len(images) - most)
        return [
            Outcome(images.samples[k], float(scores[k]), False, image=image, map=map)
            for k, (image, map) in zip(order, pictures, strict=True)
        ]

    def _round(self, images: ImageSet, fold: np.ndarray, left_out: np.ndarray) -> np.ndarray:
        scores = np.empty(len(images))
        for k in range(FOLDS):
            again = ", without the least usual ones" if left_out.any() else ""
            log.info("review: fold %d of %d%s", k + 1, FOLDS, again)
            own = np.flatnonzero(fold == k)
            model = self._fitted(images, np.flatnonzero((fold != k) & ~left_out).tolist())
            judged = run_over(model, loader(images.part(own.tolist()), model.at_once(self.batch_size)), f"fold {k + 1}")
            found = np.concatenate([prediction.score.numpy() for _, prediction in judged])
            scores[own] = found / max(float(np.median(found)), 1e-12)
        return scores

    def _fitted(self, images: ImageSet, chosen: Sequence[int]) -> Model:
        model = self.make().to(self.device)
        if model.method.epochs:
            raise UserError(f"{type(model.method).__name__} trains for each fold: take detector=padim or patchcore.")
        batches = OnDevice(loader(model.method_inputs(images.part(chosen)), self.batch_size), self.device)
        model.prepare(batches)
        model.calibrate(batches)
        return model.eval()


def worst(scores: np.ndarray, share: float) -> np.ndarray:
    """Which (n,) have the largest scores, `share` of them, rounded up."""
    chosen = np.zeros(len(scores), bool)
    chosen[np.argsort(-scores, kind="stable")[: math.ceil(share * len(scores))]] = True
    return chosen


def without_worst(reviewer: Reviewer, splits: Splits, images: ImageSet) -> tuple[Splits, list[Path]]:
    """The splits without the share of their OK images that looks least like the others; and which these were.

    images: those to learn from and those held out.
    """
    chosen = worst(reviewer.scores(images), reviewer.share)
    left_out = [s.image for s, bad in zip(images.samples, chosen, strict=True) if bad]
    gone = set(left_out)
    train, val = ([s for s in part if s.image not in gone] for part in (splits.train, splits.val))
    if not (train and val):
        raise UserError(f"contamination={reviewer.share} leaves no OK image to learn from or to hold out.")
    return replace(splits, train=train, val=val), left_out
