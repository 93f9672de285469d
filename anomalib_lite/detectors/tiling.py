"""Cuts large images into overlapping tiles and blends the tiles' maps into one without seams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from operator import lt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.data.images import ImageSet, to_float, to_pixels
from anomalib_lite.data.sample import Sample
from anomalib_lite.errors import UserError

Tile = tuple[slice, slice]


class Tiling:
    """Grid of overlapping tiles for images of one size.

    The weight of a tile's map falls towards the tile's border, where the network sees padding: 0 within a quarter of
    the overlap, then rising until three quarters. The weights of all tiles sum to 1 at each pixel. Tiles are smaller
    where the image is smaller, and overlap by `overlap` px or more. Options: `settings.detectors.Tiling`.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        size: int = 512,
        overlap: int = 64,
        full: bool = False,
        statistics: str = "shared",
        limit_mb: float = 2000,
    ) -> None:
        if not 0 <= overlap <= size // 2:
            raise UserError(f"tiling.overlap={overlap} px must be 0 to half of a tile, which has {size} px.")
        self.image, self.overlap, self.full, self.limit_mb = tuple(image_size), overlap, full, limit_mb
        self.own = statistics == "own"
        self.size = (min(size, self.image[0]), min(size, self.image[1]))
        rows, columns = (self._starts(length, side) for length, side in zip(self.image, self.size, strict=True))
        height, width = self.size
        self.tiles: list[Tile] = [(slice(y, y + height), slice(x, x + width)) for y in rows for x in columns]
        down, across = (self._weights(s, n) for s, n in ((rows, self.image[0]), (columns, self.image[1])))
        self.weights = [a[:, None] * b for a in down for b in across]

    def __len__(self) -> int:
        """Returns the number of pictures per image: its tiles and, with `full`, the whole image."""
        return len(self.tiles) + self.full

    @property
    def slots(self) -> list[list[int]]:
        """Groups of pictures, by index, that share statistics. The whole image never shares them with tiles."""
        tiles = list(range(len(self.tiles)))
        groups = [[number] for number in tiles] if self.own else [tiles]
        return [*groups, [len(tiles)]] if self.full else groups

    def cut(self, image: Tensor, number: int) -> Tensor:
        """Cuts one picture of a tile's size out of each image (B, C, H, W)."""
        if number == len(self.tiles):
            return F.interpolate(image, size=self.size, mode="area")
        rows, columns = self.tiles[number]
        return image[..., rows, columns]

    def number_at(self, y: int, x: int) -> int:
        """Returns the index of the tile with the largest weight at a pixel."""
        offsets = ((y - rows.start, x - columns.start) for rows, columns in self.tiles)
        pairs = zip(offsets, self.weights, strict=True)
        weights = [float(w[at]) if min(at) >= 0 and all(map(lt, at, w.shape)) else 0.0 for at, w in pairs]
        return int(np.argmax(weights))

    def blend(self, maps: Iterable[Tensor]) -> Tensor:
        """Blends the tiles' maps (B, 1, h, w), in order and at any resolution, into one (B, 1, H, W)."""
        total: Tensor | None = None
        for coarse, (rows, columns), weight in zip(maps, self.tiles, self.weights, strict=True):
            fine = F.interpolate(coarse.float(), size=self.size, mode="bilinear", align_corners=False)
            if total is None:
                total = fine.new_zeros((*fine.shape[:2], *self.image))
            total[..., rows, columns] += fine * weight.to(fine.device)
        assert total is not None
        return total

    def _starts(self, length: int, side: int) -> list[int]:
        """Returns evenly spaced starts of the tiles along one axis; the last tile ends with the image."""
        steps = ceil((length - side) / (side - self.overlap)) if length > side else 0
        return [round(step * (length - side) / max(1, steps)) for step in range(steps + 1)]

    def _weights(self, starts: Sequence[int], length: int) -> list[Tensor]:
        """Returns each tile's weights (side,) along one axis, float32."""
        side = length - starts[-1]
        inwards = (np.arange(side) + 0.5 - self.overlap / 4) / max(1, self.overlap / 2)
        ramp = np.sin(np.pi / 2 * np.clip(inwards, 0, 1)) ** 2
        raw = [np.where(start > 0, ramp, 1.0) * np.where(start + side < length, ramp[::-1], 1.0) for start in starts]
        total = np.zeros(length)
        for start, weight in zip(starts, raw, strict=True):
            total[start : start + side] += weight
        parts = ((weight, total[start : start + side]) for start, weight in zip(starts, raw, strict=True))
        return [torch.from_numpy(weight / part).float() for weight, part in parts]


class TileSet(ImageSet):
    """The tiles of images, or those of some `numbers`, as samples: all of the first image, then all of the second."""

    def __init__(self, images: ImageSet, tiling: Tiling, numbers: Sequence[int] | None = None) -> None:
        self.images, self.tiling = images, tiling
        self.numbers = list(range(len(tiling))) if numbers is None else list(numbers)
        self.size, self.resize, self._pixels, self._masks = tiling.size, "none", None, None
        self.samples = [sample for sample in images.samples for _ in self.numbers]
        self._shapes = np.tile(np.array(self.size), (len(self.samples), 1))

    def part(self, chosen: slice | Sequence[int]) -> TileSet:
        """Returns the tiles of some of the images."""
        return TileSet(self.images.part(chosen), self.tiling, self.numbers)

    def pixels_of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, number = self._locate(index)
        pixels, mask = self.images.pixels_of(image)
        return self._cut(pixels, number), self._cut(mask, number)

    def _release(self) -> None:
        self.images._release()

    def templates(self, chosen: Sequence[Sample], indices: Sequence[int]) -> list[np.ndarray]:
        whole = self.images.templates(chosen, indices)
        return [self._cut(template, self._locate(index)[1]) for template, index in zip(whole, indices, strict=True)]

    def _locate(self, index: int) -> tuple[int, int]:
        """Returns the indices of a sample's image and of its tile."""
        image, k = divmod(index, len(self.numbers))
        return image, self.numbers[k]

    def _cut(self, pixels: np.ndarray, number: int) -> np.ndarray:
        """Cuts a picture out of uint8 (H, W, 3) or bool (H, W); shrinking the whole image dilates its mask."""
        if number < len(self.tiling.tiles):
            return pixels[self.tiling.tiles[number]]
        if pixels.ndim == 2:
            mask = torch.from_numpy(pixels)[None, None].float()
            return F.adaptive_max_pool2d(mask, self.tiling.size)[0, 0].bool().numpy()
        return to_pixels(self.tiling.cut(to_float(pixels[None]), number))[0]
