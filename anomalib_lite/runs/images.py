"""The one writer of image files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from anomalib_lite.errors import UserError

_HOW = {".png": [cv2.IMWRITE_PNG_COMPRESSION, 3]}


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an RGB picture (H, W, 3) or a grey one (H, W), uint8, or a mask (H, W) bool, in the ending's format.

    Errors: UserError where the file cannot be written.
    """
    pixels = image.astype(np.uint8) * 255 if image.dtype == bool else image
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    _, code = cv2.imencode(path.suffix, pixels, _HOW.get(path.suffix, []))
    try:
        path.write_bytes(code.tobytes())  # unlike OpenCV's own writer this takes every name that a file can have
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
