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
    """Bool (H, W), True where the file's pixels are above zero."""
    return _decode(path, cv2.IMREAD_GRAYSCALE) > 0


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
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise UnreadableImage(f"{path} is no image that can be decoded (damaged, empty or of another format).")
    return image
