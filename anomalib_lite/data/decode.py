"""Decodes image and mask files into pixel arrays, and resizes them."""

import contextlib
import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from kornia_rs.io import ImageDecoder
from PIL import Image

from anomalib_lite.data.sample import Sample
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

Image.MAX_IMAGE_PIXELS = 2**30  # the limit that OpenCV has, too
DEPTHS = (8, 10, 12, 14, 16)  # bit depths that cameras store in 16-bit files
PROBED = 32  # images that a data set's bit depth is estimated from
LABELS = 8  # a mask with more distinct values than this has soft edges, unless all its values are small
# steps through rows and columns that bring an image upright, by its EXIF orientation; from 5 on it is transposed, too
_UPRIGHT = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}


class UnreadableImage(UserError):
    """The file cannot be decoded as an image."""


def read_image(path: Path, bits: int | None = None, data: bytes | None = None) -> np.ndarray:
    """Reads an image as RGB uint8 (H, W, 3), upright according to its EXIF tag.

    A grey image gets three equal channels; an alpha channel is dropped. bits: bit depth used in a 16-bit file; None
    takes the smallest of `DEPTHS` that holds its brightest pixel. data: the file's content, if it is in memory already.
    """
    raw = _decode(path, data)
    if raw.dtype == np.uint16:
        scale = 2 ** (bits or depth_of(int(raw.max()))) - 1
        raw = np.round(np.minimum(raw, scale) * (255 / scale)).astype(np.uint8)
    elif raw.dtype != np.uint8:
        raise UnreadableImage(f"{path} holds {raw.dtype} pixels: save it as an 8-bit or 16-bit image.")
    if raw.ndim == 2 or raw.shape[2] == 1:
        return cv2.cvtColor(raw, cv2.COLOR_GRAY2RGB)
    return np.ascontiguousarray(raw[..., :3])


def read_sample(sample: Sample) -> np.ndarray:
    """Reads a sample's image with the bit depth of its data set; see `read_image`."""
    return read_image(sample.image, sample.bits)


def common_depth(paths: Sequence[Path], bits: int | None = None, option: str = "data.bits") -> int | None:
    """Returns the bit depth that all files are read with: `bits`, or else that of the brightest; None for 8-bit files.

    option: what the user sets `bits` with, for messages.
    """
    if bits not in (None, *DEPTHS):
        raise UserError(f"{option} must be one of {', '.join(map(str, DEPTHS))} or null, not {bits}.")
    if bits or not paths or brightest(paths[0]) is None:
        return bits
    probes = paths[:: math.ceil(len(paths) / PROBED)]
    bits = depth_of(max(value for path in probes if (value := brightest(path)) is not None))
    log.info("The 16-bit files use %d bits, values up to %d; set %s if that is wrong", bits, 2**bits - 1, option)
    return bits


def depth_of(brightest: int) -> int:
    """Returns the smallest of `DEPTHS` that can hold the value."""
    return next(bits for bits in DEPTHS if brightest < 2**bits)


def brightest(path: Path) -> int | None:
    """Returns the largest pixel value of a 16-bit file, or None for an 8-bit or unreadable file."""
    try:
        raw = _decode(path)
    except UnreadableImage:
        return None
    return int(raw.max()) if raw.dtype == np.uint16 else None


def read_mask(path: Path) -> np.ndarray:
    """Reads a mask as bool (H, W), True at defective pixels; the masks in a folder are united.

    A mask with few distinct values, or with small values only, holds labels: every pixel above zero is defective. In a
    mask with soft edges or from a lossy file (JPEG, WebP), the pixels above half of the brightest value are.
    Transparent pixels are not defective; where all colours are black, the alpha channel is the mask.
    """
    if path.is_dir():
        parts = [read_mask(part) for part in mask_files(path)]
        if not parts or len({part.shape for part in parts}) > 1:
            raise UnreadableImage(f"The folder {path} must hold masks, all of the same size.")
        return np.any(parts, axis=0)
    values = _decode(path)
    if values.ndim == 3:
        colours, alpha = values[..., :3].max(axis=2), values[..., 3:].max(axis=2, initial=0)
        if values.shape[2] == 4:
            colours = np.minimum(colours, alpha) if colours.any() else alpha
        values = colours
    if not np.issubdtype(values.dtype, np.unsignedinteger):
        raise UnreadableImage(f"The mask {path} holds {values.dtype} pixels: save it with 8 bits.")
    top, full = int(values.max()), np.iinfo(values.dtype).max
    lossy = _is_lossy(path)
    if lossy and 0 < top <= full // 2:
        fault = f"is compressed with loss, and its brightest value {top} is too faint: save it as PNG."
        raise UnreadableImage(f"The mask {path} {fault}")
    soft = top > full // 2 and np.count_nonzero(np.bincount(values.ravel())) > LABELS
    return values > (top // 2 if lossy or soft else 0)


def mask_files(folder: Path) -> list[Path]:
    """Returns the mask files in the folder of an image with several masks, sorted by name."""
    return sorted(folder.glob("[!.]*"))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a uint8 image (H, W, 3): by area averaging if both sides shrink, else bilinearly."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def shrunk(shape: Sequence[int], longest: int) -> tuple[int, int]:
    """Returns height and width of the same aspect ratio, with the longer side at most `longest` px."""
    scale = min(1.0, longest / max(shape[:2]))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a mask by nearest neighbour; if that would erase the defect, marks every pixel that it touches."""
    if mask.shape == (height, width):
        return mask
    resized = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    if mask.any() and not resized.any():
        return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0
    return resized


def _decode(path: Path, data: bytes | None = None) -> np.ndarray:
    """Returns (H, W) or (H, W, C), upright; colours are RGB or RGBA."""
    try:
        data = path.read_bytes() if data is None else data
        turn = _inspect(path, data)
        pixels = _decode_jpeg(data) if data.startswith(b"\xff\xd8") else _decode_with_opencv(data)
    except OSError as error:  # cv2.imread would hide the reason
        raise UnreadableImage(f"{path} cannot be read: {error.strerror}.") from error
    except (cv2.error, ValueError) as error:
        message = f"{path} cannot be decoded as an image: it is damaged, empty or of an unknown format."
        raise UnreadableImage(message) from error
    if turn not in _UPRIGHT:
        return pixels
    down, right = _UPRIGHT[turn]
    upright = pixels[::down, ::right]
    return np.ascontiguousarray(upright.swapaxes(0, 1) if turn >= 5 else upright)


def _decode_with_opencv(data: bytes) -> np.ndarray:
    """Returns what `_decode` does; raises ValueError or cv2.error."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_ANYDEPTH) if data else None
    if pixels is None:
        raise ValueError("no image")
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _inspect(path: Path, data: bytes) -> int:
    """Checks the file with Pillow and returns the EXIF orientation that OpenCV does not apply itself.

    Raises UnreadableImage for several pages or frames, and for a damaged TIFF, which OpenCV would decode silently.
    """
    is_tiff = data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    may_move = data[:3] == b"GIF" or b"acTL" in data[:4096] or b"ANIM" in data[:64] or data[4:12] == b"ftypavis"
    tagged = any(tag in data for tag in (b"Exif", b"eXIf", b"EXIF", b"Orientation", b"profile type exif", b"ftypavi"))
    if not (is_tiff or may_move or tagged):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as header:
            pages = _pages(header) if is_tiff or may_move else 1
            if is_tiff and header.info.get("compression", "raw") != "raw":
                header.seek(0)
                header.load()
            turn = 1 if is_tiff else header.getexif().get(0x0112, 1)  # OpenCV itself rotates TIFF files only
    except (Image.UnidentifiedImageError, NotImplementedError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1  # Pillow does not know the format: OpenCV decides
    except OSError as error:
        raise UnreadableImage(f"{path} is damaged: {error}.") from error
    if pages > 1:
        raise UnreadableImage(f"{path} holds {pages} pages or frames: save each as a separate file.")
    return turn


def _pages(header: Image.Image) -> int:
    """Counts the frames that have the size of the first one; smaller ones are thumbnails."""
    count, size = 0, header.size
    for index in range(getattr(header, "n_frames", 1)):
        header.seek(index)
        count += header.size == size
    return count


def _is_lossy(path: Path) -> bool:
    """Whether the file's content is JPEG, lossy WebP or AVIF, whatever its suffix."""
    with path.open("rb") as stream:
        head = stream.read(64)
    return head.startswith(b"\xff\xd8") or (head[8:12] == b"WEBP" and b"VP8L" not in head) or head[4:8] == b"ftyp"


def _decode_jpeg(data: bytes) -> np.ndarray:
    """Decodes a JPEG with libjpeg-turbo's own interface, which reports truncated and corrupt data.

    OpenCV silently fills the missing part, which would then look like a defect. Raises ValueError or cv2.error.
    """
    place, readable = 2, False
    while (marker := data[place : place + 2]) != b"\xff\xda":  # skip the headers: a thumbnail has its own end marker
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == b"\xff\xff":  # padding
            place += 1
        elif len(marker) < 2 or length < 2:
            if place + 4 > len(data):
                raise ValueError("truncated within the headers")
            return _decode_with_opencv(data)  # an unusual layout
        else:
            if marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"):  # Huffman-coded, 8 bits, grey or RGB
                readable = data[place + 4] == 8 and data[place + 9] in (1, 3)
            place += 2 + length
    end = data.find(b"\xff\xd9", place)
    if end < 0:
        raise ValueError("no end marker")
    if not readable:
        return _decode_with_opencv(data)
    for stray in range(9):  # some cameras write a few stray bytes before the end marker
        with contextlib.suppress(Exception):  # kornia_rs raises no more specific class
            return np.asarray(ImageDecoder().decode(data[: end - stray] + b"\xff\xd9"))
    raise ValueError("damaged")
