"""Magnetic tile surfaces (MTD) in MVTec AD's layout.

Huang, Qiu, Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 2020. Defect types: blowhole,
break, crack, fray, uneven. The images are grey and of many sizes; masks are 0/255.
"""

from __future__ import annotations

from pathlib import Path

from anomalib_lite.data import mvtec_ad
from anomalib_lite.data.sample import Splits


def read(root: str | Path, template: str | Path | None = None, val_share: float = 0.2, split_seed: int = 0) -> Splits:
    """The folder that holds train/good, test/<defect> and ground_truth/<defect>."""
    return mvtec_ad.read(root, None, template, val_share, split_seed)
