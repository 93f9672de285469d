"""A frozen teacher gives the same features for the same pixels: compute them once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.model import Batches

log = logging.getLogger(__name__)


class FeatureCache:
    """Features of numbered images, kept in memory where they all fit into `limit_mb`, else computed at each call."""

    def __init__(self, compute: Callable[[Tensor], list[Tensor]], limit_mb: float) -> None:
        self.compute, self.limit_mb = compute, limit_mb
        self._kept: list[Tensor] | None = None

    @torch.no_grad()
    def fill(self, batches: Batches, describe: str) -> Iterator[list[Tensor]]:
        """Yields the features (B, C, h, w) of every batch and keeps them on the way."""
        total = len(batches.dataset)
        kept: list[Tensor] | None = None
        for batch in tqdm(batches, describe, len(batches), delay=2, leave=False):
            features = self._compute(batch.image)
            if kept is None:
                needed = sum(f[0].numel() for f in features) * 4 * total / 2**20
                log.debug("%s: %.0f MB of %.0f MB", describe, needed, self.limit_mb)
                # channels last, as convolutions give and want them
                kept = (
                    [torch.empty((total, *f.shape[2:], f.shape[1])) for f in features]
                    if needed <= self.limit_mb
                    else []
                )
            for store, feature in zip(kept, features, strict=False):
                store[batch.index.cpu()] = feature.movedim(1, -1).cpu()
            yield features
        self._kept = kept or None

    @torch.no_grad()
    def get(self, batch: Batch) -> list[Tensor]:
        """Of images without a kept number (augmented, or beyond those of `fill`) they are computed."""
        if self._kept is None:
            return self._compute(batch.image)
        index = batch.index.cpu()
        known = (index >= 0) & (index < len(self._kept[0]))
        features = [store[index.clamp(0, len(store) - 1)].to(batch.image.device) for store in self._kept]
        features = [f.movedim(-1, 1) for f in features]
        if not known.all():
            fresh = (~known).to(batch.image.device)
            for feature, computed in zip(features, self._compute(batch.image[fresh]), strict=True):
                feature[fresh] = computed.to(feature.dtype)  # of lower precision under autocast
        return features

    def clear(self) -> None:
        self._kept = None

    def _compute(self, image: Tensor) -> list[Tensor]:
        return self.compute(image.contiguous(memory_format=torch.channels_last))
