"""Pixel metrics in bounded memory: AUROC, average precision, F1-max and AUPRO from histograms."""

from __future__ import annotations

import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.metrics.alarms import pixel_alarm_metrics
from anomalib_lite.metrics.bits import BINS, float_bits, just_below, to_bins
from anomalib_lite.metrics.curves import aupro, auroc, average_precision, f1_max
from anomalib_lite.metrics.masks import Array, Labels, Masks, align_masks, known_labels, split_batch
from anomalib_lite.metrics.regions import region_weights
from anomalib_lite.metrics.result import MetricResult, absent

PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_f1_max_threshold", "aupro")


class PixelMetrics:
    """Histograms of OK pixels, of defect pixels, and of defect pixels weighted by 1 / size of their region.

    State: `histograms` int64 (3, BINS), 24 MiB, and `counts` int64 (4,). Both are sums over images, so
    `merge`, or a sum over processes (all-reduce), gives bit for bit what a single pass gives.
    """

    COUNTS = ("ok_images", "nok_images", "images_without_mask", "regions")

    def __init__(self, limit: float = 0.3) -> None:
        """limit: false-positive rate up to which AUPRO is integrated, in (0, 1]."""
        if not 0 < limit <= 1:
            raise UserError(f"The false-positive limit of AUPRO must lie in (0, 1], got {limit}.")
        self.limit = limit
        self.histograms = np.zeros((3, BINS), np.int64)
        self.counts = np.zeros(len(self.COUNTS), np.int64)

    def update(self, maps: Array, masks: Masks, labels: Labels = None) -> None:
        """Add a batch.

        maps (B, 1, H, W) or (B, H, W), finite and >= 0; masks of the same shape, or a list with one (H, W) or
        None an image; labels (B,) 0 = OK, 1 = NOK, None or -1 = unknown. An image labelled OK needs no mask;
        one labelled NOK whose mask is None or empty is left out and counted, for its defect pixels are
        unknown. Without a label an empty mask means OK, and None leaves the image out. Raises UserError on
        bad maps, shapes or labels.
        """
        bits = split_batch(float_bits(maps), "maps")
        aligned = align_masks(masks, known_labels(labels, len(bits)), bits.shape)
        for image, mask in zip(bits, aligned, strict=True):
            self.add(image, mask)

    def add(self, bits: np.ndarray, mask: np.ndarray | None) -> None:
        """Add one image: bits (H, W) from `float_bits`; mask (H, W) bool, or None to leave the image out."""
        ok, defect, overlap = self.histograms
        if mask is None:
            self.counts[2] += 1
            return
        bins = to_bins(bits)
        np.add.at(ok, bins.ravel(), 1)
        if not mask.any():
            self.counts[0] += 1
            return
        found = bins[mask]
        np.subtract.at(ok, found, 1)
        np.add.at(defect, found, 1)
        weights, regions = region_weights(mask)
        np.add.at(overlap, found, weights)
        self.counts[[1, 3]] += 1, regions

    def merge(self, other: PixelMetrics) -> None:
        """Add what another process or group has counted."""
        if other.limit != self.limit:
            raise ValueError(f"cannot merge AUPRO limits {self.limit} and {other.limit}")
        self.histograms += other.histograms
        self.counts += other.counts

    def compute(self) -> MetricResult:
        """Metrics over all pixels; None with a reason where defect or OK pixels are lacking."""
        used = np.flatnonzero(self.histograms.any(axis=0))
        ok, defect, overlap = self.histograms[:, used]
        counts = dict(zip(self.COUNTS, self.counts.tolist(), strict=True))
        counts |= {"ok_pixels": int(ok.sum()), "nok_pixels": int(defect.sum())}
        notes = {}
        if left_out := counts["images_without_mask"]:
            notes["images"] = f"{left_out} NOK or unlabelled images without a mask were left out"
        for pixels, kind in ((counts["nok_pixels"], "defect"), (counts["ok_pixels"], "OK")):
            if not pixels:
                values, missing = absent(PIXEL_METRICS, "; ".join([f"no {kind} pixels", *notes.values()]))
                return MetricResult(values, missing | notes, counts)
        f1, lowest = f1_max(ok, defect)
        values = {
            "pixel_auroc": auroc(ok, defect),
            "pixel_ap": average_precision(ok, defect),
            "pixel_f1_max": f1,
            "pixel_f1_max_threshold": just_below(int(used[lowest])),
            "aupro": aupro(ok, overlap, self.limit),
        }
        return MetricResult(values, notes, counts)

    def compute_alarms(self, threshold: float) -> MetricResult:
        """Pixel false-alarm and detection rate, F1 and mean region overlap at a threshold from elsewhere."""
        return pixel_alarm_metrics(self.histograms, threshold)
