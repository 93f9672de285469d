"""From an anomaly map to one score an image."""

from __future__ import annotations

import torch
from torch import nn

from anomalib_lite.errors import UserError


class MaxScore(nn.Module):
    """The largest pixel of the map: (B, 1, H, W) -> (B,)."""

    def forward(self, map: torch.Tensor) -> torch.Tensor:
        return map.flatten(1).amax(dim=1)


class TopKScore(nn.Module):
    """Mean of the largest pixels of the map: (B, 1, H, W) -> (B,).

    pixels: how many, if >= 1 and an int; as a float in (0, 1], the share of the map (at least one pixel).
    More stable than the maximum against single hot pixels, less sensitive to defects smaller than that.
    """

    def __init__(self, pixels: int | float = 0.01) -> None:
        super().__init__()
        whole = isinstance(pixels, int)
        if isinstance(pixels, bool) or not (pixels >= 1 if whole else 0 < pixels <= 1):
            raise UserError(
                "The score's pixels must be a whole number, 1 or more, or a share above 0.0 and at most 1.0, not "
                f"{pixels!r}."
            )
        self.count, self.share = (pixels, None) if whole else (None, pixels)

    def forward(self, map: torch.Tensor) -> torch.Tensor:
        flat = map.flatten(1)
        size = flat.shape[1]
        count = min(self.count, size) if self.share is None else max(1, round(self.share * size))
        return flat.topk(count, dim=1, sorted=False).values.mean(dim=1)
