"""Large images as overlapping tiles, and the tiles' maps as one map without seams."""

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
    """How images of one size are cut.

    A tile's map counts less towards the tile's border, where a network sees the border's padding: not at all within a
    quarter of the overlap, then more and more until three quarters. The weights of all tiles sum to 1 at each pixel.

    Args:
        image_size: Height and width of the images, in px.
        size: Side of a tile, in px; less where the image is smaller.
        overlap: Px that neighbours share at least.
        full: Whether the whole image, shrunk to one tile, is looked at beside the tiles.
        statistics: `shared` by all tiles, or each tile's `own`, for products that always lie at the same place.
        limit_mb: Memory that the tiles' own statistics may take.
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
        self.tiles: list[Tile] = [
            (slice(y, y + self.size[0]), slice(x, x + self.size[1])) for y in rows for x in columns
        ]
        down, across = (self._weights(s, n) for s, n in ((rows, self.image[0]), (columns, self.image[1])))
        self.weights = [a[:, None] * b for a in down for b in across]

    def __len__(self) -> int:
        """Pictures that an image gives: its tiles, and perhaps the whole."""
        return len(self.tiles) + self.full

    @property
    def slots(self) -> list[list[int]]:
        """The pictures that share statistics, by their numbers. The whole image never shares them with tiles."""
        tiles = list(range(len(self.tiles)))
        groups = [[number] for number in tiles] if self.own else [tiles]
        return [*groups, [len(tiles)]] if self.full else groups

    def cut(self, image: Tensor, number: int) -> Tensor:
        """Images (B, C, H, W) -> one picture of each, of a tile's size."""
        if number == len(self.tiles):
            return F.interpolate(image, size=self.size, mode="area")
        rows, columns = self.tiles[number]
        return image[..., rows, columns]

    def number_at(self, y: int, x: int) -> int:
        """The tile that counts most at a pixel."""
        places = ((y - rows.start, x - columns.start) for rows, columns in self.tiles)
        held = zip(places, self.weights, strict=True)
        counts = [float(w[place]) if min(place) >= 0 and all(map(lt, place, w.shape)) else 0.0 for place, w in held]
        return int(np.argmax(counts))

    def blend(self, maps: Iterable[Tensor]) -> Tensor:
        """The tiles' maps (B, 1, h, w), in order and at any resolution -> one (B, 1, H, W)."""
        total: Tensor | None = None
        for map, (rows, columns), weight in zip(maps, self.tiles, self.weights, strict=True):
            fine = F.interpolate(map.float(), size=self.size, mode="bilinear", align_corners=False)
            if total is None:
                total = fine.new_zeros((*fine.shape[:2], *self.image))
            total[..., rows, columns] += fine * weight.to(fine.device)
        assert total is not None
        return total

    def _starts(self, length: int, side: int) -> list[int]:
        """Evenly spread, the last tile ending with the image."""
        steps = ceil((length - side) / (side - self.overlap)) if length > side else 0
        return [round(step * (length - side) / max(1, steps)) for step in range(steps + 1)]

    def _weights(self, starts: Sequence[int], length: int) -> list[Tensor]:
        """Along one axis, float32 (side,) of each tile."""
        side = length - starts[-1]
        inwards = (np.arange(side) + 0.5 - self.overlap / 4) / max(1, self.overlap / 2)
        ramp = np.sin(np.pi / 2 * np.clip(inwards, 0, 1)) ** 2
        own = [np.where(start > 0, ramp, 1.0) * np.where(start + side < length, ramp[::-1], 1.0) for start in starts]
        total = np.zeros(length)
        for start, weight in zip(starts, own, strict=True):
            total[start : start + side] += weight
        return [
            torch.from_numpy(weight / total[start : start + side]).float()
            for start, weight in zip(starts, own, strict=True)
        ]


class TileSet(ImageSet):
    """The pictures that images give, as samples of their own: all of the first image, then all of the second.

    numbers: those that are taken; None: all.
    """

    def __init__(self, images: ImageSet, tiling: Tiling, numbers: Sequence[int] | None = None) -> None:
        self.images, self.tiling = images, tiling
        self.numbers = list(range(len(tiling))) if numbers is None else list(numbers)
        self.size, self.resize, self._pixels, self._masks = tiling.size, "none", None, None
        self.samples = [sample for sample in images.samples for _ in self.numbers]
        self._shapes = np.tile(np.array(self.size), (len(self.samples), 1))

    def part(self, chosen: slice | Sequence[int]) -> TileSet:
        """The tiles of some of the images."""
        return TileSet(self.images.part(chosen), self.tiling, self.numbers)

    def pixels_of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, number = self._place(index)
        return tuple(self._cut(part, number) for part in self.images.pixels_of(image))  # type: ignore[return-value]

    def _release(self) -> None:
        self.images._release()

    def templates(self, chosen: Sequence[Sample], indices: Sequence[int]) -> list[np.ndarray]:
        whole = self.images.templates(chosen, indices)
        return [self._cut(one, self._place(index)[1]) for one, index in zip(whole, indices, strict=True)]

    def _place(self, index: int) -> tuple[int, int]:
        """Numbers of the image, and of the picture that it gives."""
        image, place = divmod(index, len(self.numbers))
        return image, self.numbers[place]

    def _cut(self, pixels: np.ndarray, number: int) -> np.ndarray:
        """uint8 (H, W, 3) or bool (H, W), of a tile's size; the whole image's mask keeps whatever it touches."""
        if number < len(self.tiling.tiles):
            return pixels[self.tiling.tiles[number]]
        if pixels.ndim == 2:
            mask = torch.from_numpy(pixels)[None, None].float()
            return F.adaptive_max_pool2d(mask, self.tiling.size)[0, 0].bool().numpy()
        return to_pixels(self.tiling.cut(to_float(pixels[None]), number))[0]
