"""SuperADD: a large bank per layer, thinned in dense regions, of images with varied brightness."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anomalib_lite.augment.tta import View
from anomalib_lite.detectors.model import Batches, Finish, MakeBackbone
from anomalib_lite.detectors.patchcore import PatchCore


class SuperADD(PatchCore):
    """The map is the mean over the layers of the distance to the nearest stored token, divided by the channels.

    Roming, Lehnerer, Funk, Michel, Maier, Laengle, Beyerer, "SuperADD: Training-free Class-agnostic Anomaly
    Segmentation", 2026, the winner of the VAND 4.0 challenge. Nothing is trained. For overlapping windows of large
    images use `tiling=grid`; the authors merge the windows' features, tiling merges their maps. Options:
    `settings.detectors.SuperADD`.
    """

    def __init__(
        self,
        backbone: MakeBackbone,
        levels: Sequence[int] | None = (1, 2),
        brightness: Sequence[float] = (0.8, 1.2),
        **settings: Any,
    ) -> None:
        defaults = {"stride": None, "pool": 0, "separate": True, "bank": 100_000, "coreset": "thinned"}
        super().__init__(backbone, levels, **defaults | {"candidates_mb": 1024} | settings)
        self.brightness = tuple(brightness)

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        self.light = torch.Generator().manual_seed(self.seed)
        super().calibrate(batches, views, finish)
        floats = sum(bank.patches.numel() for bank in self.banks)
        self.notes = {**self.notes, "banks_mb": round(4 * floats / 2**20, 1)}

    def _extract(self, image: Tensor) -> Tensor:
        least, most = self.brightness
        factor = least + (most - least) * torch.rand(len(image), 1, 1, 1, generator=self.light)
        return super()._extract((image * factor.to(image)).clamp(0, 1))

    def _merge(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.stack([m / width for m, width in zip(maps, self.widths, strict=True)]).mean(0)
