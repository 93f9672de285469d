"""Pixel metrics by defect type, in one pass over the maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from anomalib_lite.metrics.bits import float_bits
from anomalib_lite.metrics.masks import (
    UNNAMED,
    Array,
    Labels,
    Masks,
    align_masks,
    known_defects,
    known_labels,
    split_batch,
)
from anomalib_lite.metrics.pixel import PixelMetrics
from anomalib_lite.metrics.result import MetricResult


class GroupedPixelMetrics:
    """One PixelMetrics for the good images and one for each defect type: `groups`, by name."""

    GOOD = ""

    def __init__(self, limit: float = 0.3) -> None:
        """limit: false-positive rate up to which AUPRO is integrated, in (0, 1]."""
        self.limit = limit
        self.groups = {self.GOOD: PixelMetrics(limit)}

    def update(
        self, maps: Array, masks: Masks, labels: Labels = None, defects: Sequence[str | None] | None = None
    ) -> None:
        """As PixelMetrics.update; defects (B,): type of each NOK image, None where it has no name."""
        bits = split_batch(float_bits(maps), "maps")
        known = known_labels(labels, len(bits))
        aligned = align_masks(masks, known, bits.shape)
        names = known_defects(defects, len(bits))
        for image, mask, label, name in zip(bits, aligned, known, names, strict=True):
            nok = label == 1 or (mask is not None and bool(mask.any()))
            self._group((name or UNNAMED) if nok else self.GOOD).add(image, mask)

    def merge(self, other: GroupedPixelMetrics) -> None:
        """Add what another process has counted."""
        for name, group in other.groups.items():
            self._group(name).merge(group)

    def compute(self) -> MetricResult:
        """Metrics over all images."""
        return self.total().compute()

    def compute_alarms(self, threshold: float) -> MetricResult:
        """PixelMetrics.compute_alarms over all images."""
        return self.total().compute_alarms(threshold)

    def compute_by_defect(self) -> dict[str, MetricResult]:
        """For each defect type: its images (regions and OK pixels) together with all good images."""
        types = sorted(name for name in self.groups if name != self.GOOD)
        return {name: self._total((self.GOOD, name)).compute() for name in types}

    def _group(self, name: str) -> PixelMetrics:
        if name not in self.groups:
            self.groups[name] = PixelMetrics(self.limit)
        return self.groups[name]

    def total(self) -> PixelMetrics:
        """All groups as one accumulator."""
        return self._total(self.groups)

    def _total(self, names: Iterable[str]) -> PixelMetrics:
        total = PixelMetrics(self.limit)
        for name in names:
            total.merge(self.groups[name])
        return total
