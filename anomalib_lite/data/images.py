"""Samples -> batches: decoded and resized once, kept as uint8, shuffled by seed and epoch."""

from __future__ import annotations

import logging
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler
from tqdm import tqdm

from anomalib_lite.data.decode import (
    UnreadableImage,
    looks_inverted,
    mask_files,
    read_image,
    read_mask,
    resize_image,
    resize_mask,
)
from anomalib_lite.data.sample import NOK, OK, Batch, Sample
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

# a copy is nearer than this share of the usual distance to the second nearest image, and than these grey levels
NEAR, LEVELS = 0.25, 2.0
GREY = 1.0  # levels that the channels of a grey image differ by on average, at most: a JPEG's may differ a little

LOOKED_AT = 8 * 256**2  # px that are looked at at once: twice as many take 200 MB more, and are no faster on a CPU
TEMPLATES = 8  # decoded ones that are kept at hand


class ImageSet(Dataset[Batch]):
    """Decoded samples of one size; indexed with a list it gives a Batch.

    Args:
        samples: Of any sizes.
        size: Height and width in px.
        ram_limit_mb: A set whose pixels fit is decoded once and kept; a larger one is decoded at each access.
        name: What the samples are called in messages.
        resize: `stretch` to the size; `letterbox` keeps the aspect, and repeats the border around the image; `none`
            refuses images of another size.
        spool: Decodes them once into an unnamed file in the folder for temporary files (TMPDIR), whatever the limit:
            for readers that want small parts of large images many times.
    Errors: UserError that names every image that cannot be decoded, when the pixels are kept; else at the access.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: tuple[int, int],
        ram_limit_mb: float = 4000,
        name: str = "images",
        resize: str = "stretch",
        spool: bool = False,
    ) -> None:
        self.samples, self.size, self.resize = list(samples), size, resize
        self._templates: dict[Path, np.ndarray] = {}
        self._pixels: np.ndarray | None = None
        self._masks: list[np.ndarray] | None = None
        self._shapes: np.ndarray = np.tile(np.array(size), (len(self.samples), 1))  # of the files' own pictures
        fits = len(self.samples) * size[0] * size[1] * 4 <= ram_limit_mb * 2**20
        if fits or (spool and self.samples):
            self._keep(name, not spool)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int | Sequence[int]) -> Batch:
        indices = [index] if isinstance(index, int) else index
        pixels, masks = (np.stack(parts) for parts in zip(*map(self.pixels_of, indices), strict=True))
        self._release()
        return self.batch([self.samples[i] for i in indices], pixels, masks, self._shapes[list(indices)], indices)

    def batch(
        self,
        chosen: Sequence[Sample],
        pixels: np.ndarray,
        masks: np.ndarray,
        shapes: np.ndarray | Sequence[Sequence[int]],
        indices: Sequence[int],
    ) -> Batch:
        """Of pictures that are decoded: uint8 (B, H, W, 3) as `shown` makes them, and the files' own shapes."""
        inside = templates = None
        if self.resize == "letterbox":
            inside = torch.zeros(len(shapes), 1, *self.size, dtype=torch.bool)
            for own, (height, width) in zip(inside, shapes, strict=True):
                own[:, *letterbox((int(height), int(width)), self.size)] = True
        if all(s.template for s in chosen):
            templates = to_float(np.stack(self.templates(chosen, indices)))
        return Batch(
            image=to_float(pixels),
            mask=torch.from_numpy(masks)[:, None],
            has_mask=torch.tensor([s.label == OK or bool(mask.any()) for s, mask in zip(chosen, masks, strict=True)]),
            label=torch.tensor([-1 if s.label is None else s.label for s in chosen]),
            weight=torch.tensor([s.weight for s in chosen], dtype=torch.float32),
            index=torch.tensor(list(indices)),
            template=templates,
            samples=tuple(chosen),
            inside=inside,
        )

    def pixels_of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One sample's uint8 (H, W, 3), and its mask, bool (H, W)."""
        if self._pixels is None or self._masks is None:
            return self._decode(index)
        return self._pixels[index], self._masks[index]

    def _release(self) -> None:
        """What was read from a file no longer counts as this process's memory."""
        if isinstance(self._pixels, np.memmap):
            self._pixels._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def part(self, chosen: slice | Sequence[int]) -> ImageSet:
        """Some of the samples; those of a slice share their pixels."""
        part = copy(self)
        numbers = range(len(self))[chosen] if isinstance(chosen, slice) else chosen
        part.samples, part._shapes = [self.samples[k] for k in numbers], self._shapes[chosen]
        if self._pixels is not None and self._masks is not None:
            part._pixels, part._masks = self._pixels[chosen], [self._masks[k] for k in numbers]
        return part

    def _keep(self, name: str, in_memory: bool) -> None:
        pixels = _room((len(self), *self.size, 3), in_memory)
        masks = [np.zeros(self.size, bool)] * len(self)  # one for all where there is nothing
        self._pixels, self._masks = pixels, masks
        broken: list[str] = []

        def keep(index: int) -> None:
            try:
                pixels[index], mask = self._decode(index)
                if mask.any():
                    masks[index] = mask
            except UnreadableImage as error:
                broken.append(str(error))
            self._release()

        with ThreadPoolExecutor() as pool:
            list(tqdm(pool.map(keep, range(len(self))), f"decode {name}", len(self), delay=2, leave=False))
        if broken:
            listed = "\n  ".join(sorted(broken)[:20])
            raise UserError(f"{len(broken)} of {len(self)} {name} cannot be used:\n  {listed}\nRepair or remove them.")
        masked = [(s, mask) for s, mask in zip(self.samples, masks, strict=True) if s.mask]
        turned = [s.mask for s, mask in masked if looks_inverted(mask)]
        if 2 * len(turned) > len(masked):
            raise UserError(f"{len(turned)} masks look inverted, among them {turned[0]}: defects are white, not black.")
        if empty := [s.mask for s, mask in masked if s.label == NOK and not mask.any()]:
            log.warning("%d masks of NOK images mark nothing and count as absent, among them %s", len(empty), empty[0])

    def _decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self.samples[index]
        image = read_image(sample.image, sample.bits)
        self._shapes[index] = image.shape[:2]
        small = self.shown(image, sample.image)
        if sample.mask is None:
            return small, np.zeros(self.size, bool)
        mask = read_mask(sample.mask)
        if mask.shape != image.shape[:2]:
            raise UnreadableImage(
                f"The mask {sample.mask} is {mask.shape[1]} x {mask.shape[0]} px, its image {sample.image.name} is "
                f"{image.shape[1]} x {image.shape[0]} px (each as its EXIF tag turns it)."
            )
        return small, _fitted(mask, self.size, self.resize)

    def regions_of(self, sample: Sample) -> list[tuple[np.ndarray, float]] | None:
        """A sample's defects one by one, bool (H, W), and the share of each that is enough; None where unknown."""
        if sample.mask is None or sample.saturation is None:
            return None
        parts = (_fitted(read_mask(part), self.size, self.resize) for part in mask_files(sample.mask))
        return list(zip(parts, sample.saturation, strict=True))

    def shown(self, image: np.ndarray, path: Path) -> np.ndarray:
        """A decoded picture at the set's size. Errors: UnreadableImage, by its path, where it must have that size."""
        shape = image.shape[:2]
        if self.resize == "none" and shape != self.size:
            raise UnreadableImage(
                f"{path} is {shape[1]} x {shape[0]} px, and resize=none wants {self.size[1]} x {self.size[0]} px, the "
                "size of image_size: take resize=letterbox or resize=stretch, and image_size=[HEIGHT, WIDTH]."
            )
        return _fitted(image, self.size, self.resize)

    def templates(self, chosen: Sequence[Sample], indices: Sequence[int]) -> list[np.ndarray]:
        """uint8 (H, W, 3), of samples that all have one."""
        return [self._template(s.template, s.bits) for s in chosen if s.template]

    def _template(self, path: Path, bits: int | None) -> np.ndarray:
        if path not in self._templates:
            if len(self._templates) == TEMPLATES:
                self._templates = {}
            self._templates[path] = self.shown(read_image(path, bits), path)
        return self._templates[path]


def _fitted(picture: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """A picture (H, W, 3) or a mask (H, W) at a set's size; what a letterbox adds repeats the border, and is no
    defect.
    """
    resized = resize_mask if picture.ndim == 2 else resize_image
    if resize != "letterbox":
        return resized(picture, *size)
    rows, columns = letterbox(picture.shape[:2], size)
    small = resized(picture, rows.stop - rows.start, columns.stop - columns.start)
    around = [(s.start, side - s.stop) for s, side in zip((rows, columns), size, strict=True)]
    if small.ndim == 2:
        return np.pad(small, around)
    return np.pad(small, [*around, (0, 0)], mode="edge")


def inspected(roi: str | None, ignore: str | None, size: tuple[int, int], resize: str = "stretch") -> Tensor | None:
    """Where images of this size are inspected, bool (1, 1, H, W): where the picture `roi` is white and `ignore` is not;
    None for everywhere.

    Errors: UserError where one cannot be read or is a photograph, and where nothing is left.
    """
    if not (roi or ignore):
        return None
    region = np.ones(size, bool)
    for option, file in (("roi", roi), ("ignore", ignore)):
        if file:
            path = Path(str(file)).expanduser()
            try:
                mask = read_mask(path)
                photo = path.is_file() and _is_photo(read_image(path))
            except UnreadableImage as error:
                raise UserError(f"{option}: {error}") from error
            if photo:
                raise UserError(f"{option}: {path} looks like a photograph; give a mask in black and white.")
            region &= _fitted(mask, size, resize) == (option == "roi")
    if not region.any():
        raise UserError("roi and ignore leave no pixel to inspect: white is what roi shows, and what ignore hides.")
    return torch.from_numpy(region)[None, None]


def _is_photo(pixels: np.ndarray) -> bool:
    """Whether most pixels are neither black nor white, of more levels than a mask of labels has. A photograph that is
    mostly black or white is not known as one.
    """
    levels = np.bincount(pixels.ravel(), minlength=256)
    return bool(np.count_nonzero(levels) > 64 and levels[26:230].sum() > 0.5 * pixels.size)


def letterbox(shape: Sequence[int], size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns, of an image of `size`, that a picture of this shape fills when it keeps its aspect."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    fitted = [min(side, max(1, round(own * scale))) for own, side in zip(shape, size, strict=True)]
    top, left = ((side - own) // 2 for own, side in zip(fitted, size, strict=True))
    return slice(top, top + fitted[0]), slice(left, left + fitted[1])


def content(inside: Tensor) -> tuple[slice, slice]:
    """Rows and columns that a letterboxed picture fills, from its `Batch.inside` (1, H, W)."""
    rows, columns = (inside[0].any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _room(shape: tuple[int, ...], in_memory: bool) -> np.ndarray:
    """An array of zeros, uint8, in memory, or in a file that is gone with it."""
    if in_memory:
        return np.zeros(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def warn_near_copies(learned: ImageSet, tested: ImageSet) -> None:
    """Says which tested images look like a learned one that was saved again (another format, size or quality): far
    nearer to it than images of the two sets usually are. By thumbnails, at next to no cost; only of sets that are kept.
    """
    if learned._pixels is None or tested._pixels is None or len(learned) < 3 or not len(tested):
        return

    def thumbnails(pixels: np.ndarray) -> np.ndarray:  # float32 (N, 1024): grey, 32 x 32
        grey = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pixels)
        small = [cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA) for picture in grey]
        return np.stack(small).reshape(len(pixels), -1).astype(np.float32)

    mine, theirs = thumbnails(learned._pixels), thumbnails(tested._pixels)
    distance = np.stack([np.abs(mine - thumbnail).mean(axis=1) for thumbnail in theirs])
    usual = np.median(np.partition(distance, 1, axis=1)[:, 1])  # to the second nearest
    close = np.flatnonzero(distance.min(axis=1) < min(NEAR * usual, LEVELS))
    if len(close):
        first = tested.samples[close[0]].image, learned.samples[distance[close[0]].argmin()].image
        log.warning("%d tested images look like copies of learned ones, such as %s of %s", len(close), *first)


def warn_grey_and_colour(learned: ImageSet, tested: ImageSet) -> None:
    """Says where some images of a category are grey and others are not: a score may then tell cameras apart rather than
    defects. At next to no cost; only of sets that are kept.
    """
    if learned._pixels is None or tested._pixels is None:
        return

    def grey(pixels: np.ndarray) -> np.ndarray:  # bool (N,)
        seen = pixels[:, ::8, ::8].astype(np.int16)
        return (seen.max(-1) - seen.min(-1)).mean((1, 2)) < GREY

    mine, theirs = grey(learned._pixels), grey(tested._pixels)
    seen = {(sample.category, bool(one)) for sample, one in zip(learned.samples, mine, strict=True)}
    seen |= {(sample.category, bool(one)) for sample, one in zip(tested.samples, theirs, strict=True)}
    if len(seen) > len({category for category, _ in seen}):
        log.warning(
            "%d of %d images learned from and %d of %d tested ones are grey, the others in colour: scores may tell "
            "that apart rather than defects",
            mine.sum(), len(mine), theirs.sum(), len(theirs),
        )  # fmt: skip


def to_float(pixels: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1], channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)


def to_pixels(image: Tensor) -> np.ndarray:
    """The way back: float (B, 3, H, W) in [0, 1] -> uint8 (B, H, W, 3)."""
    parts = [(part * 255).round_().byte() for part in image.split(256, 2)]  # never all of a large one in floats again
    return torch.cat(parts, 2).permute(0, 2, 3, 1).numpy()


class Shuffled(Sampler[list[int]]):
    """Batches in an order that the seed and the epoch alone decide, so that a resumed training sees the same one.

    Of several processes that train together, each gets its share of every batch. A last batch of one image, on which
    batch normalisation has nothing to work with, or of fewer than there are processes is left out, unless it is the
    only one. Lightning calls `set_epoch` before each epoch.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.length, self.batch_size, self.seed, self.epoch = length, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.batch_size)
        return whole + (rest > 0 and (whole == 0 or rest >= max(2, _processes()[1])))

    def __iter__(self) -> Iterator[list[int]]:
        order, (rank, count) = np.random.default_rng([self.seed, self.epoch]).permutation(self.length), _processes()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size][rank::count].tolist()


def _processes() -> tuple[int, int]:
    """Which one this is of those that train together, and how many they are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def loader(images: ImageSet, batch_size: int, shuffle_seed: int | None = None) -> DataLoader[Batch]:
    """In the samples' order, as many together as `at_once` says; or as `Shuffled` gives them, where a seed is given.
    The last batch may be smaller.
    """
    count = len(images)
    in_order: Sampler[list[int]] = BatchSampler(range(count), at_once(batch_size, images.size), drop_last=False)
    sampler = in_order if shuffle_seed is None else Shuffled(count, batch_size, shuffle_seed)
    return DataLoader(images, batch_size=None, sampler=sampler)


def at_once(count: int, size: Sequence[int]) -> int:
    """Of images that are only looked at: as many as asked for, but no more than fit into `LOOKED_AT`."""
    return max(1, min(count, LOOKED_AT // (size[0] * size[1])))
