"""SuperADD: a large bank for each layer, thinned where tokens crowd, of images under changed light."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from anomalib_lite.augment.tta import View
from anomalib_lite.backbones import Backbone
from anomalib_lite.detectors.model import Batches, Finish
from anomalib_lite.detectors.patchcore import PatchCore
from anomalib_lite.errors import UserError


class SuperADD(PatchCore):
    """The map is the mean over the layers of the distance to the nearest remembered token, divided by the channels.

    Roming, Lehnerer, Funk, Michel, Maier, Laengle, Beyerer, "SuperADD: Training-free Class-agnostic Anomaly
    Segmentation", 2026, the winner of the VAND 4.0 challenge. Nothing is trained. Large images are looked at in
    overlapping windows, and each place takes the window that it lies deeper in.

    levels, stride, bank, candidates_mb: see PatchCore; in `bank` tokens of each layer. brightness: factors, between
    which one is drawn for each OK image that is remembered. window: px to a side, None: the whole image. overlap: px
    of a window at each side that another one holds too.
    """

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        levels: Sequence[int] | None = (1, 2),
        stride: int | None = None,
        bank: int | float = 100_000,
        candidates_mb: float = 1024,
        brightness: Sequence[float] = (0.8, 1.2),
        window: int | None = None,
        overlap: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(
            backbone, levels, stride, pool=0, separate=True, bank=bank, coreset="thinned", candidates_mb=candidates_mb,
            seed=seed,
        )  # fmt: skip
        self.unit = math.lcm(*self.backbone.strides)
        if window is not None and (window % self.unit or window <= 2 * overlap):
            raise UserError(
                f"detector.window={window} must be a multiple of the layers' strides, that is of {self.unit} px, and "
                f"more than twice detector.overlap={overlap}."
            )
        self.brightness, self.window, self.overlap = tuple(brightness), window, overlap

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        self.light = torch.Generator().manual_seed(self.seed)
        super().calibrate(batches, views, finish)
        floats = sum(bank.patches.numel() for bank in self.banks)
        self.notes = {**self.notes, "banks_mb": round(4 * floats / 2**20, 1)}

    def _seen(self, image: Tensor) -> Tensor:
        least, most = self.brightness
        factor = least + (most - least) * torch.rand(len(image), 1, 1, 1, generator=self.light)
        return super()._seen((image * factor.to(image)).clamp(0, 1))

    def _merged(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.stack([map / width for map, width in zip(maps, self.widths, strict=True)]).mean(0)

    def _layers(self, image: Tensor) -> list[Tensor]:
        if self.window is None or self.window >= max(image.shape[2:]):
            return self.backbone(image)
        if any(side % self.unit for side in image.shape[2:]):
            raise UserError(f"detector.window needs an image_size that is a multiple of {self.unit} px.")
        return windowed(self.backbone, image, self.window, self.overlap)


def windowed(backbone: Backbone, image: Tensor, window: int, overlap: int) -> list[Tensor]:
    """The layers (B, C_l, H / s_l, W / s_l) of images (B, 3, H, W), put together from overlapping windows."""
    unit = math.lcm(*backbone.strides)
    rows, columns = (_starts(side, window, overlap, unit) for side in image.shape[2:])
    layers: list[Tensor] = []
    for y, above in rows:
        for x, left in columns:
            parts = backbone(image[:, :, y : y + window, x : x + window])
            if not layers:
                grids = [[side // stride for side in image.shape[2:]] for stride in backbone.strides]
                layers = [part.new_zeros(*part.shape[:2], *grid) for part, grid in zip(parts, grids, strict=True)]
            for layer, part, stride in zip(layers, parts, backbone.strides, strict=True):
                top, side = -(-above // (2 * stride)), -(-left // (2 * stride))  # half of what the last one holds too
                own = part[:, :, top:, side:]
                height, width = own.shape[2:]
                down, right = y // stride + top, x // stride + side
                layer[:, :, down : down + height, right : right + width] = own
    return layers


def _starts(side: int, window: int, overlap: int, unit: int) -> list[tuple[int, int]]:
    """Where windows begin along a side, in multiples of `unit` px, and how many px the one before holds, too."""
    if window >= side:
        return [(0, 0)]
    count = 1 + math.ceil((side - window) / (window - 2 * overlap))
    starts = [k * (side - window) // (count - 1) // unit * unit for k in range(count)]
    shared = [before + window - start for before, start in pairwise(starts)]
    return list(zip(starts, [0, *shared], strict=True))
