"""Where a product carries text, by a detector of text in photographs."""

from __future__ import annotations

import importlib.util
import logging

import cv2
import numpy as np

log = logging.getLogger(__name__)

_SIDE = 512  # px of the shorter side at least: letters of a few pixels are found when they are enlarged


def find_text(image: np.ndarray) -> tuple[list[np.ndarray], str]:
    """Boxes (4, 2) around lines of text in an uint8 RGB picture (H, W, 3), in px, and how they were found.

    By rapidocr's detector, the optional extra `ocr`, whose weights lie in its package; none without it.
    """
    if importlib.util.find_spec("rapidocr") is None:
        log.info("Text is not looked for: `pip install anomalib-lite[ocr]`, or draw it in defects.layout.text.")
        return [], "not looked for: rapidocr is not installed"
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.log_level": "error"})
    scale = max(1.0, _SIDE / min(image.shape[:2]))
    enlarged = cv2.resize(image[..., ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    found = engine(enlarged, use_det=True, use_cls=False, use_rec=False).boxes
    boxes = [] if found is None else [np.asarray(box) / scale for box in found]
    return boxes, f"rapidocr found {len(boxes)} line{'s' * (len(boxes) != 1)}"
