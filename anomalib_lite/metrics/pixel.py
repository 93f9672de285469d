"""Pixel metrics from histograms, in bounded memory, over all images and by defect type."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import cv2
import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.metrics.image import (
    UNNAMED,
    Array,
    Labels,
    MetricResult,
    Names,
    auroc,
    average_precision,
    f1_max,
    from_above,
    known_labels,
    one_each,
    to_numpy,
)

Masks = Array | Sequence[Array | None] | None
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
SPRO_LIMIT = 0.05  # Bergmann et al., "Beyond Dents and Scratches", IJCV 2022, section 4
Regions = Sequence[tuple[np.ndarray, float]]  # per defect: mask (H, W), and the share of it that saturates
GOOD = ""  # the group of the images without a defect
SHIFT = 11  # low bits of a float32 that its bin ignores
AT_ONCE = 1 << 20  # pixels counted at a time, which takes 60 MB
OCTAVE = 1 << (23 - SHIFT)  # bins per power of two; 256 powers make 2^20 bins
OK, DEFECT, OVERLAP, SATURATED = range(4)
# Integer weights, so that sums do not depend on the order of images; 63 bits hold 33 million regions.
_ONE_REGION = 1 << 38


@dataclass
class Histograms:
    """Counts per bin, allocated only for octaves that contain values: 128 KiB each, about twenty in all.

    The rows of `pixels` are OK pixels; defect pixels; defect pixels weighted by 1 / size of their region; and the
    largest pixels of each region up to its saturation, weighted by 1 / their number.
    """

    starts: np.ndarray = field(default_factory=lambda: np.full(256, -1))  # each octave's first bin, -1: not allocated
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((4, 0), np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(4, np.int64))  # OK, NOK, without a mask; regions
    one_by_one: bool = False  # whether regions were given; without them saturation is unknown

    def add(
        self, scores: np.ndarray, mask: np.ndarray | None, counted: np.ndarray | None, regions: Regions | None
    ) -> None:
        """Adds one image's anomaly map (H, W); without a mask the image is left out."""
        if mask is None:
            self.images[2] += 1
            return
        for part in np.array_split(scores.ravel() if counted is None else scores[counted], -(-scores.size // AT_ONCE)):
            self._count(OK, to_bins(part))
        if not mask.any():
            self.images[0] += 1
            return
        values, (weights, parts) = to_bins(scores[mask]), _region_weights(mask)
        self._count(OK, values, -1)
        self._count(DEFECT, values)
        self._count(OVERLAP, values, weights)
        self.images[[1, 3]] += 1, parts
        for region, saturation in regions or ():
            inside = region if counted is None else region & counted
            values = np.sort(to_bins(scores[inside]))[::-1]
            self._count(SATURATED, values, _saturating(len(values), saturation))
        self.one_by_one |= regions is not None

    def merge(self, other: Self) -> None:
        octaves = np.flatnonzero(other.starts >= 0)
        self._allocate(octaves)
        inside = np.arange(OCTAVE)
        for octave in octaves:
            self.pixels[:, self.starts[octave] + inside] += other.pixels[:, other.starts[octave] + inside]
        self.images += other.images
        self.one_by_one |= other.one_by_one

    def from_bin(self, first: int = 0) -> np.ndarray:
        """Returns the counts (4, N) of non-empty bins from `first` on, ascending."""
        octaves = np.flatnonzero(self.starts >= 0)
        begins = np.stack([octaves * OCTAVE, self.starts[octaves]])
        bins, columns = (begins[:, :, None] + np.arange(OCTAVE)).reshape(2, -1)
        counts = self.pixels[:, columns[bins >= first]]
        return counts[:, counts[:SATURATED].any(0)]

    def _count(self, kind: int, bins: np.ndarray, weights: np.ndarray | int = 1) -> None:
        """Adds weights (n,) of pixels to their bins (n,)."""
        octaves, inside = np.divmod(bins, OCTAVE)
        self._allocate(np.flatnonzero(np.bincount(octaves)))
        np.add.at(self.pixels[kind], self.starts[octaves] + inside, weights)

    def _allocate(self, octaves: np.ndarray) -> None:
        new = octaves[self.starts[octaves] < 0]
        self.starts[new] = self.pixels.shape[1] + OCTAVE * np.arange(len(new))
        if len(new):
            self.pixels = np.concatenate([self.pixels, np.zeros((4, OCTAVE * len(new)), np.int64)], 1)


class PixelMetrics:
    """Histograms of good images and of each defect type, by name; AUPRO up to the false-positive rate `limit`."""

    def __init__(self, limit: float = 0.3) -> None:
        self.limit = limit
        self.groups = {GOOD: Histograms()}

    def update(
        self,
        maps: Array,
        masks: Masks,
        labels: Labels = None,
        defects: Names = None,
        counted: Array | None = None,
        regions: Sequence[Regions | None] | None = None,
    ) -> None:
        """Adds a batch. Raises UserError if maps, shapes or labels are invalid.

        An image labelled OK needs no mask. One labelled NOK with no or an empty mask is left out and counted, since its
        defect pixels are unknown. Without a label, an empty mask means OK, and None leaves the image out.

        Args:
            maps: (B, 1, H, W) or (B, H, W), finite and >= 0.
            masks: Of the same shape, or a list with one (H, W) or None per image.
            labels, defects: As in `ImageMetrics.update`.
            counted: bool, the pixels to evaluate, (H, W) or shaped like the maps; None: all. Defects outside count as
                unmarked.
            regions: (B,) single defects of each image, for `auspro`; None if unknown.
        """
        images = np.ascontiguousarray(to_numpy(maps), np.float32)
        images = images[:, 0] if images.ndim == 4 and images.shape[1] == 1 else images
        if images.ndim != 3:
            raise UserError(f"The maps of a batch must have shape (B, 1, H, W) or (B, H, W), got {images.shape}.")
        size = len(images)
        parts = (one_each(masks, size, "masks"), known_labels(labels, size), one_each(defects, size, "defect names"))
        within = None
        if counted is not None:
            within = np.broadcast_to(to_numpy(counted).reshape(-1, *images.shape[1:]), images.shape)
        more = one_each(regions, size, "regions"), one_each(within, size, "parts to evaluate")
        for image, given, label, name, regions_, inside in zip(images, *parts, *more, strict=True):
            mask = _defect_pixels(given, label, image.shape)
            if mask is not None and inside is not None:
                mask = mask & inside
                mask = None if label == 1 and not mask.any() else mask
            nok = label == 1 or (mask is not None and bool(mask.any()))
            group = self.groups.setdefault((name or UNNAMED) if nok else GOOD, Histograms())
            _check(image)
            group.add(image, mask, inside, regions_)

    def total(self, names: Iterable[str] | None = None) -> Histograms:
        """Sums the groups with these names; None: all groups."""
        total = Histograms()
        for name in self.groups if names is None else names:
            total.merge(self.groups[name])
        return total

    def compute_by_defect(self) -> dict[str, MetricResult]:
        """Computes, for each defect type, the metrics of its images together with all good images."""
        return {name: self.compute((GOOD, name)) for name in sorted(self.groups) if name != GOOD}

    def compute(self, names: Iterable[str] | None = None) -> MetricResult:
        """Computes metrics over groups, see `total`; None with a reason if there are no defect or no OK pixels."""
        counted = self.total(names)
        ok, defect, overlap, saturated = counted.from_bin()
        images = counted.images.tolist()
        counts = dict(zip(("ok_images", "nok_images", "images_without_mask", "regions"), images, strict=True))
        counts |= {"ok_pixels": int(ok.sum()), "nok_pixels": int(defect.sum())}
        notes = {"images": f"{images[2]} NOK or unlabelled images without a mask were left out"} if images[2] else {}
        for pixels, kind in ((counts["nok_pixels"], "defect"), (counts["ok_pixels"], "OK")):
            if not pixels:
                reason = "; ".join([f"no {kind} pixels", *notes.values()])
                return MetricResult(dict.fromkeys(PIXEL_METRICS), dict.fromkeys(PIXEL_METRICS, reason) | notes, counts)
        values: dict[str, float | None] = {
            "pixel_auroc": auroc(ok, defect),
            "pixel_ap": average_precision(ok, defect),
            "pixel_f1_max": f1_max(ok, defect),
            "aupro": aupro(ok, overlap, self.limit),
        }
        if counted.one_by_one:
            values["auspro"] = aupro(ok, saturated, SPRO_LIMIT)
        return MetricResult(values, notes, counts)


def aupro(ok: np.ndarray, overlap: np.ndarray, limit: float) -> float:
    """Computes the area under mean per-region overlap over false-positive rates up to `limit`, divided by `limit`.

    The curve starts at (0, 0) and is cut at the limit by linear interpolation. Bergmann et al., "The MVTec Anomaly
    Detection Dataset", IJCV 2021, section 4.3. `ok` counts defect-free pixels; `overlap` sums defect pixels, each
    weighted by 1 / size of its region, up to a common factor.
    """
    rate = np.concatenate([[0.0], from_above(ok)])
    pro = np.concatenate([[0.0], from_above(overlap)])
    rate, pro = rate / rate[-1], pro / pro[-1]
    inside = int(np.searchsorted(rate, limit, side="right"))
    if inside < len(rate):
        step = (limit - rate[inside - 1]) / (rate[inside] - rate[inside - 1])
        cut = pro[inside - 1] + step * (pro[inside] - pro[inside - 1])
        rate, pro = np.append(rate[:inside], limit), np.append(pro[:inside], cut)
    return float(np.trapezoid(pro, rate) / limit)


def pixel_f1(parts: Iterable[tuple[PixelMetrics, float]]) -> float | None:
    """Computes the F1 of pixels above the threshold of their part (segF1 of MVTec AD 2); None without defect pixels."""
    flagged = detected = defective = 0
    for metrics, threshold in parts:
        total = metrics.total()
        first = 0 if threshold < 0 else int(to_bins(np.array([threshold], np.float32))[0]) + 1
        ok, defect = total.from_bin(first)[[OK, DEFECT]].sum(1).tolist()
        flagged, detected, defective = flagged + ok, detected + defect, defective + int(total.pixels[DEFECT].sum())
    return 2 * detected / (detected + flagged + defective) if defective else None


def to_bins(values: np.ndarray) -> np.ndarray:
    """Returns the bin in [0, 2^20) of each value >= 0, float32, from its leading bits."""
    return (np.abs(values).view(np.uint32) >> SHIFT).astype(np.intp)  # abs: also -0.0


def _check(maps: np.ndarray) -> None:
    """Raises UserError unless all values are finite and >= 0."""
    problems = {"NaN": np.isnan(maps), "infinite": np.isinf(maps), "negative": maps < 0}
    if summary := ", ".join(f"{bad.sum()} {name}" for name, bad in problems.items() if bad.any()):
        raise UserError(
            f"An anomaly map has invalid pixels ({summary}, of {maps.size}). Maps must be finite and >= 0. NaN "
            "or infinite values mean that the training has diverged: lower the learning rate. If values are negative, "
            "shift or square the detector's distance."
        )


def _defect_pixels(mask: Array | None, label: int | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns a mask as bool (H, W), empty for a good image without one; None if defect pixels are unknown."""
    if mask is None:
        return np.zeros(shape, bool) if label == 0 else None
    defect = to_numpy(mask).astype(bool, copy=False)
    defect = defect[0] if defect.ndim == 3 and defect.shape[0] == 1 else defect
    if defect.shape != shape:
        raise UserError(f"A mask of shape {defect.shape} does not fit its map of shape {shape}: resize one of them.")
    if label == 0 and defect.any():
        raise UserError("An image labelled OK has defect pixels in its mask: correct its label or its mask.")
    return None if label == 1 and not defect.any() else defect


def _region_weights(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Weights the pixels of mask[mask] so that each 8-connected region weighs _ONE_REGION, and counts the regions.

    Rounding changes the weight of a region of a million pixels by 2e-6 of itself, of a smaller one by less.
    """
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    region = labels[mask] - 1
    by_region = np.rint(_ONE_REGION / np.bincount(region, minlength=count - 1)).astype(np.int64)
    return by_region[region], count - 1


def _saturating(pixels: int, share: float) -> np.ndarray:
    """Weights a region's pixels from the largest value down: a share of them weighs _ONE_REGION, the rest nothing.

    This gives saturated per-region overlap; with a share of 1 it is per-region overlap.
    """
    reached = np.minimum(np.arange(pixels + 1) / (share * pixels or 1), 1)
    return np.diff(np.rint(_ONE_REGION * reached).astype(np.int64))
