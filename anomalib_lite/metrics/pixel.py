"""Pixel metrics in bounded memory, over all images and by defect type, from histograms."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.metrics.image import (
    UNNAMED,
    Array,
    Labels,
    MetricResult,
    Names,
    absent,
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
Regions = Sequence[tuple[np.ndarray, float]]  # each defect, bool (H, W), and the share of it that is enough
GOOD = ""  # the group of the images without a defect
SHIFT = 11  # bits of a float32 that its bin leaves out
BINS = 1 << (31 - SHIFT)
# Weights are integers, so that sums are the same in whatever order images are added up; 63 bits hold 33 million
# regions.
_ONE_REGION = 1 << 38


@dataclass
class Histograms:
    """pixels: int64 (3, BINS), 24 MiB: OK pixels, defect pixels, and defect pixels weighted by 1 / size of their
    region. images: int64 (4,): OK and NOK images, images without a mask, and regions. saturated: int64 (BINS,), 8 MiB,
    of each region the largest pixels that are enough, weighted by 1 / their number; None where regions are unknown.
    """

    pixels: np.ndarray = field(default_factory=lambda: np.zeros((3, BINS), np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(4, np.int64))
    saturated: np.ndarray | None = None

    def add(
        self, bins: np.ndarray, mask: np.ndarray | None, counted: np.ndarray | None, regions: Regions | None
    ) -> None:
        """Adds one image (H, W): the bin of each pixel; mask, or None to leave the image out; counted: the pixels that
        count, None for all.
        """
        ok, defect, overlap = self.pixels
        if mask is None:
            self.images[2] += 1
            return
        np.add.at(ok, bins.ravel() if counted is None else bins[counted], 1)
        if not mask.any():
            self.images[0] += 1
            return
        found = bins[mask]
        np.subtract.at(ok, found, 1)
        np.add.at(defect, found, 1)
        weights, parts = _region_weights(mask)
        np.add.at(overlap, found, weights)
        self.images[[1, 3]] += 1, parts
        if regions is not None:
            self.saturated = np.zeros(BINS, np.int64) if self.saturated is None else self.saturated
            for region, enough in regions:
                found = np.sort(bins[region if counted is None else region & counted])[::-1]
                np.add.at(self.saturated, found, _saturating(len(found), enough))


class PixelMetrics:
    """Histograms of the good images and of each defect type, by name, in `groups`."""

    def __init__(self, limit: float = 0.3) -> None:
        """limit: false-positive rate up to which AUPRO is integrated, in (0, 1]."""
        self.limit = limit
        self.groups = {GOOD: Histograms()}

    def update(
        self,
        maps: Array,
        masks: Masks,
        labels: Labels = None,
        defects: Names = None,
        counted: np.ndarray | None = None,
        regions: Sequence[Regions | None] | None = None,
    ) -> None:
        """Adds a batch.

        An image labelled OK needs no mask; one labelled NOK whose mask is None or empty is left out and counted, for
        its defect pixels are unknown. Without a label an empty mask means OK, and None leaves the image out.

        Args:
            maps: (B, 1, H, W) or (B, H, W), finite and >= 0.
            masks: of the same shape, or a list with one (H, W) or None an image.
            labels: (B,) 0 = OK, 1 = NOK, None or -1 = unknown.
            defects: (B,) type of each NOK image, None where it has no name.
            counted: (H, W) bool, the pixels that are looked at; None: all. Defects beyond them count as unmarked.
            regions: (B,) each image's defects one by one, which gives `auspro`, too; None where they are not known.

        Raises:
            UserError: bad maps, shapes or labels.
        """
        images = to_numpy(maps)
        images = images[:, 0] if images.ndim == 4 and images.shape[1] == 1 else images
        if images.ndim != 3:
            raise UserError(f"The maps of a batch must have shape (B, 1, H, W) or (B, H, W), got {images.shape}.")
        size = len(images)
        parts = (one_each(masks, size, "masks"), known_labels(labels, size), one_each(defects, size, "defect names"))
        for image, given, label, name, own in zip(images, *parts, one_each(regions, size, "regions"), strict=True):
            mask = _defect_pixels(given, label, image.shape)
            if mask is not None and counted is not None:
                mask = mask & counted
                mask = None if label == 1 and not mask.any() else mask
            nok = label == 1 or (mask is not None and bool(mask.any()))
            group = self.groups.setdefault((name or UNNAMED) if nok else GOOD, Histograms())
            group.add(to_bins(image), mask, counted, own)

    def total(self, names: Iterable[str] | None = None) -> Histograms:
        """The sum of the groups with these names, of all without."""
        groups = [self.groups[name] for name in (self.groups if names is None else names)]
        total = Histograms(groups[0].pixels.copy(), np.sum([group.images for group in groups], axis=0))
        for group in groups[1:]:
            total.pixels += group.pixels
        saturated = [group.saturated for group in groups if group.saturated is not None]
        total.saturated = np.sum(saturated, axis=0) if saturated else None
        return total

    def compute(self) -> MetricResult:
        """Metrics over all images; None with a reason where defect or OK pixels are lacking."""
        return self._compute(self.total())

    def f1(self, threshold: float) -> float | None:
        """Of the pixels above a threshold that was fixed before (segF1 of MVTec AD 2); None without defect pixels."""
        first = int(to_bins(np.array([threshold]))[0]) + 1
        pixels = [group.pixels[:2] for group in self.groups.values()]
        flagged, found = (sum(int(rows[kind, first:].sum()) for rows in pixels) for kind in (0, 1))
        defective = sum(int(rows[1].sum()) for rows in pixels)
        return 2 * found / (found + flagged + defective) if defective else None

    def compute_by_defect(self) -> dict[str, MetricResult]:
        """For each defect type: its images (regions and OK pixels) together with all good images."""
        return {name: self._compute(self.total((GOOD, name))) for name in sorted(self.groups) if name != GOOD}

    def _compute(self, counted: Histograms) -> MetricResult:
        used = np.flatnonzero(counted.pixels.any(axis=0))
        ok, defect, overlap = counted.pixels[:, used]
        images = counted.images.tolist()
        counts = dict(zip(("ok_images", "nok_images", "images_without_mask", "regions"), images, strict=True))
        counts |= {"ok_pixels": int(ok.sum()), "nok_pixels": int(defect.sum())}
        notes = {"images": f"{images[2]} NOK or unlabelled images without a mask were left out"} if images[2] else {}
        for pixels, kind in ((counts["nok_pixels"], "defect"), (counts["ok_pixels"], "OK")):
            if not pixels:
                result = absent(PIXEL_METRICS, "; ".join([f"no {kind} pixels", *notes.values()]), counts)
                result.missing.update(notes)
                return result
        values: dict[str, float | None] = {
            "pixel_auroc": auroc(ok, defect),
            "pixel_ap": average_precision(ok, defect),
            "pixel_f1_max": f1_max(ok, defect),
            "aupro": aupro(ok, overlap, self.limit),
        }
        if counted.saturated is not None:
            values["auspro"] = aupro(ok, counted.saturated[used], SPRO_LIMIT)
        return MetricResult(values, notes, counts)


def aupro(ok: np.ndarray, overlap: np.ndarray, limit: float) -> float:
    """Area under the mean per-region overlap over the false-positive rates up to `limit`, divided by it.

    The curve starts at (0, 0) and is cut at the limit by linear interpolation. Bergmann et al., "The MVTec Anomaly
    Detection Dataset", IJCV 2021, section 4.3.

    Args:
        ok: counts of defect-free pixels.
        overlap: each defect pixel weighted by 1 / size of its region (any common factor).
        limit: in (0, 1].
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


def to_bins(map: np.ndarray) -> np.ndarray:
    """The bin in [0, BINS) of each value, by the leading bits of its float32, as the index type.

    Errors: UserError unless every value is finite and >= 0.
    """
    values = np.ascontiguousarray(map, np.float32)
    problems = {"NaN": np.isnan(values), "infinite": np.isinf(values), "negative": values < 0}
    if found := ", ".join(f"{bad.sum()} {name}" for name, bad in problems.items() if bad.any()):
        raise UserError(
            f"An anomaly map holds bad pixels ({found}, of {values.size}). Maps must be finite and >= 0: NaN "
            "or infinite values mean that the training has diverged (lower the learning rate), negative ones "
            "that the detector must shift or square its distance."
        )
    return (np.abs(values).view(np.uint32) >> SHIFT).astype(np.intp)  # of -0.0, too


def _defect_pixels(mask: Array | None, label: int | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """A mask as bool (H, W), empty for a good image without one; None where the defect's pixels are unknown."""
    if mask is None:
        return np.zeros(shape, bool) if label == 0 else None
    defect = to_numpy(mask).astype(bool, copy=False)
    defect = defect[0] if defect.ndim == 3 and defect.shape[0] == 1 else defect
    if defect.shape != shape:
        raise UserError(f"A mask of {defect.shape} does not fit its anomaly map of {shape}: resize one of them.")
    if label == 0 and defect.any():
        raise UserError("An image labelled OK has defect pixels in its mask: correct its label or its mask.")
    return None if label == 1 and not defect.any() else defect


def _region_weights(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Weight of each defect pixel, such that every 8-connected region weighs _ONE_REGION in all.

    Rounding moves the weight of a region of a million pixels by 2e-6 of itself, of a smaller one by less.

    Returns:
        int64 of mask[mask]'s shape, and the number of regions.
    """
    found, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    region = labels[mask] - 1
    by_region = np.rint(_ONE_REGION / np.bincount(region, minlength=found - 1)).astype(np.int64)
    return by_region[region], found - 1


def _saturating(pixels: int, enough: float) -> np.ndarray:
    """Weights of a region's pixels from the largest value down, such that the share `enough` of them weighs _ONE_REGION
    and the others nothing: saturated per-region overlap; with a share of 1 it is per-region overlap.
    """
    reached = np.minimum(np.arange(pixels + 1) / (enough * pixels or 1), 1)
    return np.diff(np.rint(_ONE_REGION * reached).astype(np.int64))
