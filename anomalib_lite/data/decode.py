"""Files -> pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from anomalib_lite.errors import UserError


class UnreadableImage(UserError):
    """The file is no image that can be decoded."""


def read_image(path: Path) -> np.ndarray:
    """RGB uint8 (H, W, 3). Grey images are repeated; 16-bit ones are scaled by 1/257; alpha is dropped."""
    raw = _decode(path, cv2.IMREAD_UNCHANGED | cv2.IMREAD_ANYDEPTH)
    if raw.dtype == np.uint16:
        raw = np.round(raw / 257).astype(np.uint8)
    elif raw.dtype != np.uint8:
        raise UnreadableImage(f"{path} holds {raw.dtype} pixels; 8-bit and 16-bit images can be read.")
    if raw.ndim == 2 or raw.shape[2] == 1:
        return cv2.cvtColor(raw, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(raw, cv2.COLOR_BGRA2RGB if raw.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def read_mask(path: Path) -> np.ndarray:
    """Bool (H, W), True where any colour of a pixel is above zero, and the pixel is not fully transparent.

    A JPEG's rounding leaves faint values around edges: there, above half.
    """
    raw = _decode(path, cv2.IMREAD_UNCHANGED | cv2.IMREAD_ANYDEPTH)
    marked = raw > (127 if path.suffix.lower() in (".jpg", ".jpeg") else 0)
    if marked.ndim == 2:
        return marked
    colours, alpha = marked[..., :3], marked[..., 3:]
    return colours.any(axis=2) & alpha.all(axis=2)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3); area-averaged where it shrinks, bilinear where it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest neighbour; a defect that would vanish by it keeps every pixel that it touches."""
    if mask.shape == (height, width):
        return mask
    resized = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    if mask.any() and not resized.any():
        return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0
    return resized


def _decode(path: Path, flags: int) -> np.ndarray:
    try:
        data = np.fromfile(path, dtype=np.uint8)  # cv2.imread would hide why it failed
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {error.strerror}.") from error
    try:
        image = cv2.imdecode(data, flags) if data.size and not _truncated_jpeg(data.tobytes()) else None
    except cv2.error:
        image = None
    if image is None:
        raise UnreadableImage(f"{path} is no image that can be decoded (damaged, empty or of another format).")
    return image


def _truncated_jpeg(data: bytes) -> bool:
    """OpenCV fills what is missing with grey, which would count as a defect: look for the end marker instead."""
    if not data.startswith(b"\xff\xd8"):
        return False
    place = 2
    while (marker := data[place : place + 2]) != b"\xff\xda":  # over the headers: a thumbnail has an end of its own
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == b"\xff\xff":  # padding
            place += 1
        elif len(marker) < 2 or length < 2:
            return place + 4 > len(data)  # cut within the headers; or laid out otherwise, then the decoder decides
        else:
            place += 2 + length
    return data.find(b"\xff\xd9", place) < 0
