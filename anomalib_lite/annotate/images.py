"""Crops, templates and masks as a browser needs them."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalib_lite.errors import UserError

_SHOWN_AS_IS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp",
                ".bmp": "image/bmp"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def browser_image(path: Path) -> tuple[bytes, str]:
    """The file's bytes and media type; what browsers cannot show (TIFF) as PNG. Raises UserError, OSError."""
    media_type = _SHOWN_AS_IS.get(path.suffix.lower())
    if media_type:
        return path.read_bytes(), media_type
    return cv2.imencode(".png", _decode(path))[1].tobytes(), "image/png"


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels as shown, the camera's orientation tag obeyed. Raises UserError, OSError."""
    height, width = _decode(path).shape[:2]
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


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", mask)[1].tobytes()


def _decode(path: Path) -> NDArray[np.uint8]:
    content = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise UserError(f"{path} is no image that can be read.")
    return image
