"""Patches of many images within a stated amount of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.augment.tta import View
from anomalib_lite.detectors.model import Batches

log = logging.getLogger(__name__)


def gather_candidates(
    batches: Batches,
    features: Callable[[Tensor], Tensor],
    views: Sequence[View],
    limit_mb: float,
    generator: torch.Generator,
) -> Tensor:
    """Feature rows (N, C) of all images in all views: every position's, or as many of each image, drawn, as fit.

    features: images (B, 3, H, W) -> (B, C, h, w). At least one row of each image and view is kept, whatever the limit.
    """
    looks = len(batches.dataset) * len(views)
    rows, filled, quota = torch.empty(0), 0, 0
    for view in views:
        for batch in tqdm(batches, f"patches, image {view.label}", len(batches), delay=2, leave=False):
            found = features(view.apply(batch.image)).flatten(2).transpose(1, 2)  # (B, positions, C)
            _, positions, channels = found.shape
            if not quota:
                quota = max(1, min(positions, int(limit_mb * 2**20 / (4 * channels * looks))))
                rows = torch.empty(looks * quota, channels)
            if quota < positions:
                drawn = torch.rand(found.shape[:2], generator=generator).topk(quota, sorted=False).indices
                found = found.gather(1, drawn[:, :, None].expand(-1, -1, channels))
            part = found.reshape(-1, channels)
            rows[filled : filled + len(part)] = part
            filled += len(part)
    log.debug("%d of %d patches an image", quota, positions)
    return rows[:filled]
