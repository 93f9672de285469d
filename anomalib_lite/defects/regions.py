"""Finds the anomalous regions of a map, and the extent of the defect in each."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage
from scipy.ndimage import binary_dilation
from skimage.filters import apply_hysteresis_threshold
from skimage.measure import label

from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import Extent, Regions


@dataclass(frozen=True)
class Region:
    """A region of a map, with the map's largest and mean value in it."""

    mask: np.ndarray  # its core, bool (H, W)
    zone: np.ndarray  # with its surroundings
    peak: float
    mean: float


@dataclass(frozen=True)
class MapLevels:
    """Levels of OK images' maps. base: the typical value. low: the value that 1 % of the pixels exceed."""

    base: float = 0.0
    low: float = 0.0


class LevelsOfMaps:
    """Accumulates `MapLevels` over the maps of held-out OK images; keeps two numbers per image."""

    def __init__(self) -> None:
        self._levels: list[np.ndarray] = []

    def update(self, values: np.ndarray, inside: np.ndarray | None = None) -> None:
        """Adds a map (H, W); `inside`, bool (H, W): the pixels to count, None: all."""
        self._levels.append(np.quantile(thinned(values, 2, inside), (0.5, 0.99)))

    def compute(self) -> MapLevels:
        """Returns the median over the images, which is robust to dust on a few; zeros without images."""
        return MapLevels(*np.median(self._levels, axis=0).tolist()) if self._levels else MapLevels()


def thinned(values: np.ndarray, step: int, inside: np.ndarray | None) -> np.ndarray:
    """Returns one of `step` squared pixels of a map (H, W): of all, or of those `inside`, bool (H, W)."""
    return values[::step, ::step].ravel() if inside is None else values[inside][:: step * step]


def find_regions(
    values: np.ndarray, high: float, low: float, base: float = 0.0, config: Regions | None = None
) -> list[Region]:
    """Returns the regions of a map (H, W), the highest peak first. Raises UserError for NaN or infinity in the map.

    A region's peak exceeds `high`, its pixels `low` (hysteresis: Canny, "A Computational Approach to Edge Detection",
    PAMI 1986). It is bounded at a share of its peak above `base`, the typical value on good images, because blur makes
    a strong defect look larger than a faint one.
    """
    config = config or Regions()
    if not np.isfinite(values).all():
        raise UserError(
            "The anomaly map holds NaN or infinity, probably because the training diverged: lower the learning rate."
        )
    pieces, zones = _pieces(values, high, min(low, high), base, config)
    gap = config.merge * min(values.shape)
    joined = ndimage.distance_transform_edt(~pieces) <= gap / 2 if gap >= 1 and pieces.any() else pieces
    groups = label(joined, connectivity=2) * pieces
    regions = []
    for number in range(1, groups.max() + 1):
        mask = groups == number
        if mask.sum() >= max(1.0, config.min_area * values.size):
            touched = np.unique(zones[mask])
            zone = np.isin(zones, touched[touched > 0]) | mask
            regions.append(Region(mask, zone, float(values[mask].max()), float(values[mask].mean())))
    return sorted(regions, key=lambda region: -region.peak)


def _pieces(values: np.ndarray, high: float, low: float, base: float, config: Regions) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels of all cores, bool (H, W), and each pixel's zone as a number (H, W), 0 for none."""
    labels = label(apply_hysteresis_threshold(values, low, high), connectivity=2)
    pieces, zones, count = np.zeros(values.shape, bool), np.zeros(values.shape, int), 0
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        part, left = values[window], labels[window] == number
        while (left & (part > high)).any():
            peak = np.unravel_index(np.argmax(np.where(left & (part > high), part, -np.inf)), part.shape)
            height = part[peak] - base
            reached = label(left & (part > max(low, base + config.zone * height)), connectivity=2)
            reached[peak] = reached[peak] or -1  # the peak is in its zone, even if no pixel exceeds the bound
            zone = reached == reached[peak]
            count += 1
            zones[window][zone] = count
            pieces[window][zone & (part > max(low, base + config.core * height))] = True
            # high pixels that touch the zone are this peak's slope; high pixels elsewhere are another defect
            left &= ~zone
            slopes = label(left & (part > high), connectivity=2)
            left &= ~np.isin(slopes, np.setdiff1d(slopes[binary_dilation(zone, np.ones((3, 3)))], 0))
    return pieces, zones


def join_overlapping(
    regions: Iterable[Region], extents: Iterable[np.ndarray], values: np.ndarray
) -> tuple[list[Region], list[np.ndarray]]:
    """Merges regions whose extents (H, W) share more than half of the smaller one's pixels; returns both.

    For example, two peaks along one broken edge have overlapping zones that show the same defect.
    """
    found: list[Region] = []
    masks: list[np.ndarray] = []
    for region, mask in zip(regions, extents, strict=True):
        while same := [k for k, m in enumerate(masks) if 2 * (m & mask).sum() > min(m.sum(), mask.sum())]:
            other, mask = found.pop(same[-1]), mask | masks.pop(same[-1])
            core = region.mask | other.mask
            region = Region(core, region.zone | other.zone, max(region.peak, other.peak), float(values[core].mean()))
        found.append(region)
        masks.append(mask)
    return found, masks


def extent(
    region: Region, change: np.ndarray, usual: float, rare: float, in_text: bool, config: Extent | None = None
) -> np.ndarray:
    """Returns the pixels of a region's zone that differ from the good product: bool (H, W), never empty.

    Uses the image, which is sharper than the map. The limit is a share of the region's strongest change, at least
    `usual`, and at most `rare` or, if larger, a sixth of that change: faint parts of a defect count, the blurred edge
    of a strong one does not. If fewer than a tenth as many pixels pass as the map marks, the detector has seen
    something that single pixels do not show, and the region's mask is returned.

    change: how unusual each pixel's difference is (H, W), with `usual` and `rare` as in `Reference`. in_text: whether
    most of the region lies in text.
    """
    config = config or Extent()
    strongest = float(np.quantile(change[region.mask], 0.9))
    limit = float(np.clip(config.share * strongest, usual, max(usual, rare, strongest / 6)))
    differs = (change > limit) & region.zone
    if differs.sum() < 0.1 * region.mask.sum():
        return region.mask
    side = round((config.close_text if in_text else config.close) * min(change.shape))
    if side > 1:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        padded = np.pad(differs.astype(np.uint8), side)  # closing would otherwise erode at the image border
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[side:-side, side:-side] > 0
        differs = (closed & region.zone) | differs
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(differs.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = areas >= areas[1:].max() / 20  # smaller pieces are noise
    kept[0] = False
    return kept[numbers]
