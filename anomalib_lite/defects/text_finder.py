"""Where a product carries text: by a detector of text in photographs, confirmed by reading it."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

import cv2
import numpy as np

log = logging.getLogger(__name__)

_SIDE = 512  # px of the shorter side at least: letters of a few pixels are found when they are enlarged
_READ = 0.75  # confidence in what was read; round parts and rows of ornaments, taken for letters, come lower
_LETTERS = 2  # at least: a ring is read as an O


def find_text(image: np.ndarray) -> tuple[list[np.ndarray], str]:
    """Boxes (4, 2) around lines of text in an uint8 RGB picture (H, W, 3), in px, and what was read, in words.

    A line counts if it can be read, because a detector alone takes rings and ornaments for text. PP-OCR's networks as
    rapidocr brings them in its package (Cui et al., "PaddleOCR 3.0 Technical Report", 2025); nothing is downloaded.
    """
    scale = max(1.0, _SIDE / min(image.shape[:2]))
    enlarged = cv2.resize(image[..., ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    found = _reader()(enlarged, text_score=_READ)
    lines = [] if found.boxes is None else list(zip(found.boxes, found.txts, strict=True))
    kept = [(box, words) for box, words in lines if sum(letter.isalnum() for letter in words) >= _LETTERS]
    log.info("Text on the product: %s.", ", ".join(words for _, words in kept) or "none")
    return [np.asarray(box) / scale for box, _ in kept], _told([words for _, words in kept])


def _told(lines: list[str]) -> str:
    return "no text found" if not lines else "read: " + ", ".join(lines[:5]) + ", ..." * (len(lines) > 5)


@cache
def _reader() -> Any:
    from rapidocr import RapidOCR  # with its runtime it takes a second to import

    threads = int(os.environ.get("OMP_NUM_THREADS") or -1)  # -1: all cores
    given = {"Det.limit_side_len": _SIDE, "EngineConfig.onnxruntime.intra_op_num_threads": threads}
    return RapidOCR(params={"Global.log_level": "error", **given})
