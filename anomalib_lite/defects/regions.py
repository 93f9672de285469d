"""From an anomaly map to the places where it stands out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.ndimage import binary_dilation
from skimage.filters import apply_hysteresis_threshold
from skimage.measure import label

from anomalib_lite.errors import UserError


@dataclass(frozen=True)
class RegionConfig:
    """core: share of a region's peak, counted from the map's level on good images, that bounds it; half the maximum
    is where a blurred edge lay. zone: the same for the wider surroundings in which the defect is looked for.
    min_area, merge: smallest area, and the widest gap over which pieces become one region, as shares of the map's
    area and of its shorter side, so that they hold at every resolution.
    """

    core: float = 0.5
    zone: float = 0.3
    min_area: float = 0.0002
    merge: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.zone <= self.core < 1:
            raise UserError(f"Regions need 0 <= zone <= core < 1, but zone is {self.zone} and core {self.core}.")
        if self.min_area < 0 or self.merge < 0:
            raise UserError("The smallest area and the merging distance of regions cannot be negative.")


@dataclass(frozen=True)
class Region:
    """mask: bool (H, W), the map above its share of the peak; zone: bool (H, W), holds the mask and what is near it.
    peak, mean: of the map, the mean over the mask.
    """

    mask: np.ndarray
    zone: np.ndarray
    peak: float
    mean: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        return box_of(self.mask)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height in px of the smallest box around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def find_regions(
    values: np.ndarray, high: float, low: float, base: float = 0.0, config: RegionConfig | None = None
) -> list[Region]:
    """The regions of a map (H, W), the highest peak first.

    high: a region holds a pixel > high, the threshold that finds it. low: all its pixels are > low (hysteresis: Canny,
    "A Computational Approach to Edge Detection", PAMI 1986). base: the map's usual level on good images. From base and
    its own peak each region gets its bounds, because a map's blur makes a strong defect look larger than a faint one.
    Regions of fewer pixels than the smallest area are dropped after near pieces were merged.
    Errors: UserError for a map that holds NaN or infinity.
    """
    config = config or RegionConfig()
    if not np.isfinite(values).all():
        raise UserError("The anomaly map holds NaN or infinity: the training has probably diverged.")
    pieces, zones = _pieces(values, high, min(low, high), base, config)
    if not pieces.any():
        return []
    groups = _near(pieces, config.merge * min(values.shape))
    smallest = max(1.0, config.min_area * values.size)
    regions = []
    for number in range(1, groups.max() + 1):
        mask = pieces & (groups == number)
        if mask.sum() >= smallest:
            touched = np.unique(zones[mask])
            regions.append(Region(mask, np.isin(zones, touched[touched > 0]) | mask, *_level(values, mask)))
    return sorted(regions, key=lambda region: -region.peak)


def _pieces(
    values: np.ndarray, high: float, low: float, base: float, config: RegionConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The cores as one bool (H, W), and the zones as numbers (H, W)."""
    found = label(apply_hysteresis_threshold(values, low, high), connectivity=2)
    pieces, zones, count = np.zeros(values.shape, bool), np.zeros(values.shape, int), 0
    for number, window in enumerate(ndimage.find_objects(found), start=1):
        part, left = values[window], found[window] == number
        while (peak := _peak(part, left & (part > high))) is not None:
            height = part[peak] - base
            zone = _around(peak, left & (part > max(low, base + config.zone * height)))
            count += 1
            zones[window][zone] = count
            pieces[window][zone & (part > max(low, base + config.core * height))] = True
            # What is high beside it is this peak's foot; what rises anew elsewhere is a defect of its own.
            left &= ~zone
            feet = label(left & (part > high), connectivity=2)
            left &= ~np.isin(feet, np.setdiff1d(feet[binary_dilation(zone, np.ones((3, 3)))], 0))
    return pieces, zones


def _peak(part: np.ndarray, inside: np.ndarray) -> tuple[int, int] | None:
    if not inside.any():
        return None
    row, column = np.unravel_index(np.argmax(np.where(inside, part, -np.inf)), part.shape)
    return int(row), int(column)


def _around(peak: tuple[int, int], mask: np.ndarray) -> np.ndarray:
    """The connected part of a mask that holds a pixel; the pixel alone where the mask does not hold it."""
    numbers = label(mask, connectivity=2)
    if numbers[peak] == 0:
        numbers[peak] = -1
    return numbers == numbers[peak]


def _near(pieces: np.ndarray, gap: float) -> np.ndarray:
    """Numbers (H, W), the same for pieces with at most `gap` px between them, 0 outside."""
    grown = ndimage.distance_transform_edt(~pieces) <= gap / 2 if gap >= 1 else pieces
    return label(grown, connectivity=2) * pieces


def _level(values: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    return float(values[mask].max()), float(values[mask].mean())
