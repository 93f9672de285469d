"""Turns samples into batches: decodes and resizes images once, keeps them as uint8, shuffles by seed and epoch."""

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

from anomalib_lite.data.decode import UnreadableImage, mask_files, read_image, read_mask, resize_image, resize_mask
from anomalib_lite.data.sample import NOK, OK, Batch, Sample
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

# a near copy lies closer than this share of the median distance to the second-nearest image, and than these grey levels
NEAR, LEVELS = 0.25, 2.0
GREY = 1.0  # largest mean difference between the channels of a grey image, in levels: JPEG adds a little
ASPECT = 0.02  # largest relative difference in aspect ratio of a mask of the inspected region: rounding when scaled

LOOKED_AT = 8 * 256**2  # px per inference batch: twice as many take 200 MB more, and are no faster on a CPU
TEMPLATES = 8  # decoded templates kept in memory


class ImageSet(Dataset[Batch]):
    """Dataset of samples at one size (height, width); indexing with a list returns a Batch.

    A set whose pixels fit into `ram_limit_mb` is decoded once and kept; else each access decodes. With `spool`, all
    images are decoded once into an unnamed temporary file (in TMPDIR), for readers that read small parts of large
    images many times. name: of the samples, in messages. resize: `stretch` ignores the aspect ratio; `letterbox` keeps
    it and pads by repeating the border; `none` refuses images of another size.

    Raises UserError for images that cannot be decoded: at once, with all of them, if the set is kept, else on access.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: tuple[int, int],
        ram_limit_mb: float = 4000,
        name: str = "all",
        resize: str = "stretch",
        spool: bool = False,
    ) -> None:
        self.samples, self.size, self.resize = list(samples), size, resize
        self._templates: dict[Path, np.ndarray] = {}
        self._pixels: np.ndarray | None = None
        self._masks: list[np.ndarray] | None = None
        self._shapes: np.ndarray = np.tile(np.array(size), (len(self.samples), 1))  # before resizing
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
        """Builds a Batch of images, uint8 (B, H, W, 3), that `resized` has brought to the set's size.

        shapes: heights and widths before resizing. indices: for `Batch.index`.
        """
        inside = templates = None
        if self.resize == "letterbox":
            inside = torch.zeros(len(shapes), 1, *self.size, dtype=torch.bool)
            for image_inside, (height, width) in zip(inside, shapes, strict=True):
                image_inside[:, *letterbox((int(height), int(width)), self.size)] = True
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
        """Returns one sample's image, uint8 (H, W, 3), and mask, bool (H, W)."""
        if self._pixels is None or self._masks is None:
            return self._decode(index)
        return self._pixels[index], self._masks[index]

    def _release(self) -> None:
        """Frees the pages read from a spooled file, so that they do not count as this process's memory."""
        if isinstance(self._pixels, np.memmap):
            self._pixels._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # numpy hides it

    def part(self, chosen: slice | Sequence[int]) -> ImageSet:
        """Returns a set of the chosen samples; for a slice it shares the pixels."""
        part = copy(self)
        numbers = range(len(self))[chosen] if isinstance(chosen, slice) else chosen
        part.samples, part._shapes = [self.samples[k] for k in numbers], self._shapes[chosen]
        if self._pixels is not None and self._masks is not None:
            part._pixels, part._masks = self._pixels[chosen], [self._masks[k] for k in numbers]
        return part

    def _keep(self, name: str, in_memory: bool) -> None:
        pixels = _allocate((len(self), *self.size, 3), in_memory)
        masks = [np.zeros(self.size, bool)] * len(self)  # all samples without a defect share this empty mask
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
            listed = "\n  ".join(sorted(broken)[:20]) + "\nRepair or remove them."
            raise UserError(f"{len(broken)} of {len(self)} images ({name}) cannot be used:\n  {listed}")
        masked = [(s, mask) for s, mask in zip(self.samples, masks, strict=True) if s.mask]
        inverted = [f"{s.mask}: draw defects in white, not black." for s, mask in masked if _looks_inverted(mask)]
        if 2 * len(inverted) > len(masked):
            raise UserError(f"{len(inverted)} masks look inverted, among them {inverted[0]}")
        if empty := [s.mask for s, mask in masked if s.label == NOK and not mask.any()]:
            log.warning("%d masks of NOK images are empty and count as absent, among them %s", len(empty), empty[0])

    def _decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self.samples[index]
        image = read_image(sample.image, sample.bits)
        self._shapes[index] = image.shape[:2]
        small = self.resized(image, sample.image)
        if sample.mask is None:
            return small, np.zeros(self.size, bool)
        mask = read_mask(sample.mask)
        if mask.shape != image.shape[:2]:
            raise UnreadableImage(
                f"The mask {sample.mask} is {mask.shape[1]} x {mask.shape[0]} px, its image {sample.image.name} is "
                f"{image.shape[1]} x {image.shape[0]} px (both after the rotation of their EXIF tags)."
            )
        return small, _resized(mask, self.size, self.resize)

    def shown(self, index: int) -> tuple[float, float]:
        """See `shown`."""
        return shown(self._shapes[index], self.size, self.resize)

    def regions_of(self, sample: Sample) -> list[tuple[np.ndarray, float]] | None:
        """Returns each defect's mask, bool (H, W), and the share of it that is enough to find; None where unknown."""
        if sample.mask is None or sample.saturation is None:
            return None
        parts = (_resized(read_mask(part), self.size, self.resize) for part in mask_files(sample.mask))
        return list(zip(parts, sample.saturation, strict=True))

    def resized(self, image: np.ndarray, path: Path) -> np.ndarray:
        """Resizes an image to the set's size; raises UnreadableImage where resize=none and the size differs."""
        shape = image.shape[:2]
        if self.resize == "none" and shape != self.size:
            raise UnreadableImage(
                f"{path} is {shape[1]} x {shape[0]} px, and resize=none wants {self.size[1]} x {self.size[0]} px, the "
                "size of image_size: set resize=letterbox or resize=stretch, or image_size=[HEIGHT, WIDTH]."
            )
        return _resized(image, self.size, self.resize)

    def templates(self, chosen: Sequence[Sample], indices: Sequence[int]) -> list[np.ndarray]:
        """Returns the templates, uint8 (H, W, 3), of samples that all have one."""
        return [self._template(s.template, s.bits) for s in chosen if s.template]

    def _template(self, path: Path, bits: int | None) -> np.ndarray:
        if path not in self._templates:
            if len(self._templates) == TEMPLATES:
                self._templates = {}
            self._templates[path] = self.resized(read_image(path, bits), path)
        return self._templates[path]


def _resized(picture: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """Resizes an image (H, W, 3) or a mask (H, W); a letterbox repeats an image's border and pads masks with False."""
    resize_to = resize_mask if picture.ndim == 2 else resize_image
    if resize != "letterbox":
        return resize_to(picture, *size)
    rows, columns = letterbox(picture.shape[:2], size)
    small = resize_to(picture, rows.stop - rows.start, columns.stop - columns.start)
    padding = [(s.start, side - s.stop) for s, side in zip((rows, columns), size, strict=True)]
    if small.ndim == 2:
        return np.pad(small, padding)
    return np.pad(small, [*padding, (0, 0)], mode="edge")


def inspected(
    roi: str | None, ignore: str | None, size: tuple[int, int], resize: str = "stretch", image: Path | None = None
) -> Tensor | None:
    """Returns the pixels to inspect, bool (1, 1, H, W): those white in the mask `roi` and not white in `ignore`.

    None means all pixels. image: a photograph, whose aspect ratio the masks should have; others are told. Raises
    UserError if a mask is unreadable, looks like a photograph or does not fit in a letterbox, or no pixel is left.
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
            if image is not None:
                _check_aspect(f"{option}: {path}", mask.shape, image, resize)
            region &= _resized(mask, size, resize) == (option == "roi")
    if not region.any():
        raise UserError("roi and ignore leave no pixel to inspect: white is what roi includes and ignore excludes.")
    return torch.from_numpy(region)[None, None]


def _check_aspect(name: str, shape: Sequence[int], image: Path, resize: str) -> None:
    height, width = read_image(image).shape[:2]
    if abs(height * shape[1] / (width * shape[0]) - 1) <= ASPECT:
        return
    sides = f"{name} is {shape[1]} x {shape[0]} px, but the photograph {image.name} is {width} x {height} px"
    if resize == "letterbox":
        raise UserError(f"{sides}: a letterbox would misplace it. Draw it on a photograph, or crop it to their shape.")
    log.warning("%s: it is stretched to their shape, so draw it again if it was not made on such a photograph", sides)


def _looks_inverted(mask: np.ndarray) -> bool:
    """Whether the mask covers the whole border and more than half of the image, but not all of it."""
    border = mask[0].all() and mask[-1].all() and mask[:, 0].all() and mask[:, -1].all()
    return bool(border and not mask.all() and mask.mean() > 0.5)


def _is_photo(pixels: np.ndarray) -> bool:
    """Whether most pixels are neither near black nor near white, at more levels than a mask has."""
    levels = np.bincount(pixels.ravel(), minlength=256)
    return bool(np.count_nonzero(levels) > 64 and levels[26:230].sum() > 0.5 * pixels.size)


def letterbox(shape: Sequence[int], size: tuple[int, int]) -> tuple[slice, slice]:
    """Returns the rows and columns that an image of `shape` fills in a letterbox of `size`."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    scaled = [min(side, max(1, round(length * scale))) for length, side in zip(shape, size, strict=True)]
    top, left = ((side - length) // 2 for length, side in zip(scaled, size, strict=True))
    return slice(top, top + scaled[0]), slice(left, left + scaled[1])


def shown(shape: Sequence[int], size: tuple[int, int], resize: str) -> tuple[float, float]:
    """Returns the height and width that an image resized to `size` shows, in px of its file, of `shape`.

    They exceed the file's where a letterbox adds padding.
    """
    if resize != "letterbox":
        return float(shape[0]), float(shape[1])
    parts = letterbox(shape, size)
    height, width = (s * whole / (p.stop - p.start) for s, whole, p in zip(shape, size, parts, strict=True))
    return float(height), float(width)


def content(inside: Tensor) -> tuple[slice, slice]:
    """Returns the rows and columns that a letterboxed image fills, from its `Batch.inside` (1, H, W)."""
    rows, columns = (inside[0].any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _allocate(shape: tuple[int, ...], in_memory: bool) -> np.ndarray:
    """Returns a uint8 array of zeros, in memory or in an unnamed file that lives as long as the array."""
    if in_memory:
        return np.zeros(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def warn_near_copies(learned: ImageSet, tested: ImageSet) -> None:
    """Warns about test images that look like re-saved training images, in sets that are kept decoded.

    Compares thumbnails: a near copy is much closer to a training image than test images usually are to their
    second-nearest one.
    """
    if learned._pixels is None or tested._pixels is None or len(learned) < 3 or not len(tested):
        return

    def thumbnails(pixels: np.ndarray) -> np.ndarray:  # float32 (N, 1024): grey, 32 x 32
        grey = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pixels)
        small = [cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA) for picture in grey]
        return np.stack(small).reshape(len(pixels), -1).astype(np.float32)

    train, test = thumbnails(learned._pixels), thumbnails(tested._pixels)
    distance = np.stack([np.abs(train - thumbnail).mean(axis=1) for thumbnail in test])
    usual = np.median(np.partition(distance, 1, axis=1)[:, 1])
    close = np.flatnonzero(distance.min(axis=1) < min(NEAR * usual, LEVELS))
    if len(close):
        first = tested.samples[close[0]].image, learned.samples[distance[close[0]].argmin()].image
        log.warning("%d test images look like copies of training images, such as %s of %s", len(close), *first)


def warn_grey_and_colour(learned: ImageSet, tested: ImageSet) -> None:
    """Warns if a category of decoded sets mixes grey and colour images: scores may separate cameras, not defects."""
    if learned._pixels is None or tested._pixels is None:
        return

    def is_grey(pixels: np.ndarray) -> np.ndarray:  # bool (N,)
        sparse = pixels[:, ::8, ::8].astype(np.int16)
        return (sparse.max(-1) - sparse.min(-1)).mean((1, 2)) < GREY

    train, test = is_grey(learned._pixels), is_grey(tested._pixels)
    samples = [*learned.samples, *tested.samples]
    kinds = {(sample.category, grey) for sample, grey in zip(samples, [*train, *test], strict=True)}
    if len(kinds) > len({category for category, _ in kinds}):
        log.warning(
            "%d of %d training images and %d of %d test images are grey, the others in colour: scores may reflect "
            "this difference instead of defects",
            train.sum(), len(train), test.sum(), len(test),
        )  # fmt: skip


def to_float(pixels: np.ndarray) -> Tensor:
    """Converts uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1], channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)


def to_pixels(image: Tensor) -> np.ndarray:
    """Converts float (B, 3, H, W) in [0, 1] to uint8 (B, H, W, 3)."""
    pixels = np.empty((len(image), *image.shape[2:], 3), np.uint8)
    for part, into in zip(image.split(256, 2), np.split(pixels, range(256, image.shape[2], 256), 1), strict=True):
        into[:] = (part * 255).round_().permute(0, 2, 3, 1)  # no second float copy of a large image
    return pixels


class Shuffled(Sampler[list[int]]):
    """Yields shuffled batches; the order depends only on seed and epoch, so that a resumed training repeats it.

    In distributed training each process gets its share of every batch. The last batch is dropped, unless it is the only
    one, if it has a single image (too few for batch normalisation) or fewer images than there are processes. Lightning
    calls `set_epoch` before each epoch.
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
    """Returns the rank and the number of the training processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def loader(images: ImageSet, batch_size: int, shuffle_seed: int | None = None) -> DataLoader[Batch]:
    """Returns a loader of batches, `Shuffled` if a seed is given, else in order, with at most `at_once` images each."""
    count = len(images)
    in_order: Sampler[list[int]] = BatchSampler(range(count), at_once(batch_size, images.size), drop_last=False)
    sampler = in_order if shuffle_seed is None else Shuffled(count, batch_size, shuffle_seed)
    return DataLoader(images, batch_size=None, sampler=sampler)


def at_once(count: int, size: Sequence[int]) -> int:
    """Returns the batch size for inference: `count`, but no more images than fit into `LOOKED_AT` pixels."""
    return max(1, min(count, LOOKED_AT // (size[0] * size[1])))
