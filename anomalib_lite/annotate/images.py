"""Crops, templates and masks as a browser needs them."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalib_lite.data.decode import read_image

_SHOWN_AS_IS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
}
_EXIF = re.compile(rb"exif", re.IGNORECASE)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def browser_image(path: Path) -> tuple[bytes, str]:
    """The file's bytes and media type. Raises UserError, OSError.

    What a browser cannot show (TIFF), or may show turned by its EXIF tags, comes as a PNG of the pixels that
    the data set's reader sees, so that a mask fits what is trained on.
    """
    content = path.read_bytes()
    media_type = _SHOWN_AS_IS.get(path.suffix.lower())
    if media_type and not _EXIF.search(content):
        return content, media_type
    pixels = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes(), "image/png"


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels. Raises UserError."""
    height, width = read_image(path).shape[:2]
    return width, height


def decode_mask(png: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask (H, W) of 0 and 255 from a drawn PNG: its alpha channel where it has one, else its grey values.

    Raises ValueError where it is no PNG of `size` (width, height); the header is read before all else.
    """
    if len(png) < 33 or not png.startswith(_PNG_SIGNATURE):
        raise ValueError("a mask is a PNG")
    if struct.unpack(">II", png[16:24]) != size:
        raise ValueError(f"the mask has {struct.unpack('>II', png[16:24])} pixels, the crop {size}")
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("the mask's PNG is damaged")
    if image.ndim == 3:
        image = image[..., 3] if image.shape[2] == 4 else image.max(axis=2)
    return np.where(image > np.iinfo(image.dtype).max // 2, 255, 0).astype(np.uint8)
