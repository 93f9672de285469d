"""Finds NOK images among OK images: each image is scored by a model that was not fitted to it."""

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
FOLDS = 5


@dataclass(frozen=True)
class Reviewer:
    """Cross-fitting: each fold is scored by a model fitted to the other folds, so no image makes itself look normal.

    share: images with the largest scores, left out when the models are fitted a second time, so that NOK images among
    them do not count as normal; 0: the models are fitted once.
    """

    make: Callable[[], Model]  # makes an untrained model whose method needs no gradient training
    device: torch.device
    batch_size: int
    seed: int = 0
    share: float = 0.0

    def scores(self, images: ImageSet) -> np.ndarray:
        """Returns each image's score divided by the median of its fold (n,); 1 is typical.

        Raises UserError for a method that trains by gradient, and for too few images.
        """
        if len(images) < 2 * FOLDS:
            raise UserError(f"A review needs at least {2 * FOLDS} OK images, but there are {len(images)}.")
        fold = np.random.default_rng(self.seed).permutation(len(images)) % FOLDS
        scores = self._round(images, fold, np.zeros(len(images), bool))
        return self._round(images, fold, worst(scores, self.share)) if self.share else scores

    def outcomes(self, images: ImageSet, shown: int) -> list[Outcome]:
        """Returns all images, largest score first; the first `shown` have picture and map, by a model of the others."""
        scores = self.scores(images)
        order, shown = np.argsort(-scores, kind="stable").tolist(), min(shown, len(images) // 2)
        model = self._fitted(images, order[shown:])
        batches, pictures = loader(images.part(order[:shown]), model.at_once(self.batch_size)), list[Any]()
        for batch, prediction in run_over(model, batches, "draw the worst"):
            pictures += zip(to_pixels(batch.image), prediction.map[:, 0].numpy(), strict=True)
        pictures += [(None, None)] * (len(images) - shown)
        return [
            Outcome(images.samples[k], float(scores[k]), False, image=image, map=anomaly_map)
            for k, (image, anomaly_map) in zip(order, pictures, strict=True)
        ]

    def _round(self, images: ImageSet, fold: np.ndarray, left_out: np.ndarray) -> np.ndarray:
        scores = np.empty(len(images))
        for k in range(FOLDS):
            second = " (second round, without the images with the largest scores)" if left_out.any() else ""
            log.info("review: fold %d of %d%s", k + 1, FOLDS, second)
            members = np.flatnonzero(fold == k)
            model = self._fitted(images, np.flatnonzero((fold != k) & ~left_out).tolist())
            batches = loader(images.part(members.tolist()), model.at_once(self.batch_size))
            raw = np.concatenate([p.score.numpy() for _, p in run_over(model, batches, f"fold {k + 1}")])
            scores[members] = raw / max(float(np.median(raw)), 1e-12)
        return scores

    def _fitted(self, images: ImageSet, chosen: Sequence[int]) -> Model:
        model = self.make().to(self.device)
        if model.method.trains:
            raise UserError(
                f"{type(model.method).__name__} would have to be trained for each fold: use detector=padim or "
                "patchcore."
            )
        batches = OnDevice(loader(model.method_inputs(images.part(chosen)), self.batch_size), self.device)
        model.prepare(batches)
        model.calibrate(batches)
        return model.eval()


def worst(scores: np.ndarray, share: float) -> np.ndarray:
    """Marks the `share` of largest scores, rounded up: bool (n,)."""
    chosen = np.zeros(len(scores), bool)
    chosen[np.argsort(-scores, kind="stable")[: math.ceil(share * len(scores))]] = True
    return chosen


def without_worst(reviewer: Reviewer, splits: Splits, images: ImageSet) -> tuple[Splits, list[Path]]:
    """Leaves out the share of OK images that looks least like the others; returns the splits and the images left out.

    images: the training and held-out images.
    """
    chosen = worst(reviewer.scores(images), reviewer.share)
    left_out = [s.image for s, bad in zip(images.samples, chosen, strict=True) if bad]
    removed = set(left_out)
    train, val = ([s for s in part if s.image not in removed] for part in (splits.train, splits.val))
    if not (train and val):
        raise UserError(f"contamination={reviewer.share} leaves no OK image for training or to hold out.")
    return replace(splits, train=train, val=val), left_out
