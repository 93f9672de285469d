"""How far a defect reaches: an anomaly map is blurred and coarse, the picture is not."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.defects.regions import Region


@dataclass(frozen=True)
class ExtentConfig:
    """share: of the strongest change within a region, above which a pixel belongs to the defect. close, close_text:
    widest gap that is closed, as a share of the picture's shorter side; between letters gaps are wider.
    """

    share: float = 0.4
    close: float = 0.012
    close_text: float = 0.035


def extent(
    region: Region, change: np.ndarray, usual: float, rare: float, in_text: bool, config: ExtentConfig | None = None
) -> np.ndarray:
    """The pixels of a region's zone that differ from the good product: bool (H, W), never empty.

    change: how unusual each pixel's difference is (H, W). The bar is a share of the strongest change in the region, but
    not below what 3 % of a good product's pixels exceed (`usual`), nor above what only 0.1 % do (`rare`), as the faint
    parts of a defect belong to it; only where it is so strong that a blurred edge alone exceeds that, above a sixth of
    it. Where fewer than a tenth as many pixels pass as the map marks, the detector saw something that pixels do not
    show, and the region stays as the map has it.
    """
    config = config or ExtentConfig()
    strongest = float(np.quantile(change[region.mask], 0.9))
    bar = float(np.clip(config.share * strongest, usual, max(usual, rare, strongest / 6)))
    differs = (change > bar) & region.zone
    if differs.sum() < 0.1 * region.mask.sum():
        return region.mask
    side = round((config.close_text if in_text else config.close) * min(change.shape))
    if side > 1:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        margin = side  # closing at the picture's border would otherwise open it
        padded = cv2.copyMakeBorder(differs.astype(np.uint8), *[margin] * 4, cv2.BORDER_CONSTANT)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[margin:-margin, margin:-margin]
        differs = (closed > 0) & (region.zone | differs)
    return _without_specks(differs)


def _without_specks(mask: np.ndarray) -> np.ndarray:
    """Less the pieces that are smaller than a twentieth of the largest one: noise of single pixels."""
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = areas >= areas[1:].max() / 20 if count > 1 else np.ones(count, bool)
    kept[0] = False
    return kept[numbers]
