"""From an anomaly map to the places where it stands out, and how far the defect there reaches."""

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
    """mask: bool (H, W), the region's core; zone: bool (H, W), with its surroundings. peak, mean: of the map."""

    mask: np.ndarray
    zone: np.ndarray
    peak: float
    mean: float


@dataclass(frozen=True)
class MapLevels:
    """base: the usual value of maps of OK images. low: what 1 % of an OK image's pixels exceed."""

    base: float = 0.0
    low: float = 0.0


class LevelsOfMaps:
    """Adds up over the maps of held-out OK images; keeps two numbers an image."""

    def __init__(self) -> None:
        self._levels: list[np.ndarray] = []

    def update(self, maps: Iterable[np.ndarray]) -> None:
        """maps: (B, 1, H, W) or (B, H, W)."""
        self._levels += [np.quantile(np.squeeze(values)[::2, ::2], (0.5, 0.99)) for values in np.asarray(maps)]

    def compute(self) -> MapLevels:
        """The median over the images, so that one with dust on it does not count; zeros without any."""
        return MapLevels(*np.median(self._levels, axis=0).tolist()) if self._levels else MapLevels()


def find_regions(
    values: np.ndarray, high: float, low: float, base: float = 0.0, config: Regions | None = None
) -> list[Region]:
    """The regions of a map, the highest peak first.

    From `base` and its own peak each region gets its bounds, because a map's blur makes a strong defect look larger
    than a faint one. Hysteresis: Canny, "A Computational Approach to Edge Detection", PAMI 1986.

    Args:
        values: The map (H, W); NaN or infinity is a UserError.
        high: The threshold, which the peak of a region exceeds.
        low: What all its pixels exceed.
        base: The map's usual level on good images.
    """
    config = config or Regions()
    if not np.isfinite(values).all():
        raise UserError("The anomaly map holds NaN or infinity: the training has probably diverged.")
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
    """The cores as one bool (H, W), and the zones as numbers (H, W)."""
    found = label(apply_hysteresis_threshold(values, low, high), connectivity=2)
    pieces, zones, count = np.zeros(values.shape, bool), np.zeros(values.shape, int), 0
    for number, window in enumerate(ndimage.find_objects(found), start=1):
        part, left = values[window], found[window] == number
        while (left & (part > high)).any():
            peak = np.unravel_index(np.argmax(np.where(left & (part > high), part, -np.inf)), part.shape)
            height = part[peak] - base
            reached = label(left & (part > max(low, base + config.zone * height)), connectivity=2)
            reached[peak] = reached[peak] or -1  # the peak belongs to its zone, even where nothing exceeds the bounds
            zone = reached == reached[peak]
            count += 1
            zones[window][zone] = count
            pieces[window][zone & (part > max(low, base + config.core * height))] = True
            # What is high beside it is this peak's foot; what rises anew elsewhere is a defect of its own.
            left &= ~zone
            feet = label(left & (part > high), connectivity=2)
            left &= ~np.isin(feet, np.setdiff1d(feet[binary_dilation(zone, np.ones((3, 3)))], 0))
    return pieces, zones


def join_overlapping(
    regions: Iterable[Region], extents: Iterable[np.ndarray], values: np.ndarray
) -> tuple[list[Region], list[np.ndarray]]:
    """Regions whose defects share more than half of the smaller one's pixels as one, with their extents (H, W).

    Two peaks of a map above one broken edge have zones that overlap, and the picture shows one and the same defect in
    both.
    """
    found: list[tuple[Region, np.ndarray]] = []
    for region, mask in zip(regions, extents, strict=True):
        while same := [k for k, (_, other) in enumerate(found) if _is_same(mask, other)]:
            other_region, other = found.pop(same[-1])
            core, zone, mask = region.mask | other_region.mask, region.zone | other_region.zone, mask | other
            region = Region(core, zone, max(region.peak, other_region.peak), float(values[core].mean()))
        found.append((region, mask))
    return [region for region, _ in found], [mask for _, mask in found]


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(2 * np.count_nonzero(one & other) > min(np.count_nonzero(one), np.count_nonzero(other)))


def extent(
    region: Region, change: np.ndarray, usual: float, rare: float, in_text: bool, config: Extent | None = None
) -> np.ndarray:
    """The pixels of a region's zone that differ from the good product: bool (H, W), never empty.

    An anomaly map is blurred and coarse, the picture is not. The bar is a share of the strongest change in the region,
    between `usual` and `rare`, as the faint parts of a defect belong to it; only where the blurred edge of a change
    alone exceeds that, it is a sixth of it. Where fewer than a tenth as many pixels pass as the map marks, the detector
    saw something that pixels do not show, and the region stays as the map has it.

    Args:
        change: How unusual each pixel's difference is (H, W).
        usual, rare: What 3 % and 0.1 % of a good product's pixels exceed.
        in_text: Whether most of the region lies in text.
    """
    config = config or Extent()
    strongest = float(np.quantile(change[region.mask], 0.9))
    bar = float(np.clip(config.share * strongest, usual, max(usual, rare, strongest / 6)))
    differs = (change > bar) & region.zone
    if differs.sum() < 0.1 * region.mask.sum():
        return region.mask
    side = round((config.close_text if in_text else config.close) * min(change.shape))
    if side > 1:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        padded = np.pad(differs.astype(np.uint8), side)  # closing at the picture's border would otherwise open it
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[side:-side, side:-side] > 0
        differs = (closed & region.zone) | differs
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(differs.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = areas >= areas[1:].max() / 20  # less is noise of single pixels
    kept[0] = False
    return kept[numbers]
