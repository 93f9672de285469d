"""Inspects an image and its anomaly map: finds defects and determines their type, measures and severity."""

import json
import logging
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomalib_lite.data.decode import resize_image
from anomalib_lite.defects.layout import TEXT, Layout, find_layout
from anomalib_lite.defects.measures import Scene, box_of, measure, occupied
from anomalib_lite.defects.reference import (
    Palette,
    Reference,
    change,
    find_pose,
    fit_reference,
    lay_over,
    likeness,
    relit,
)
from anomalib_lite.defects.regions import MapLevels, Region, extent, find_regions, join_overlapping
from anomalib_lite.defects.rules import accepts, classify, grade_of, read_settings, severity_of
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path, write_json
from anomalib_lite.settings.training import Defects

log = logging.getLogger(__name__)

NUMBERS = ("usual", "rare", "alike", "motion")  # of a `Reference`, in its order
FOREIGN = 0.5  # correlation of template and OK images' median below which they show different products; else above 0.8


@dataclass(frozen=True)
class Defect:
    """A defect, at the resolution of inspection."""

    mask: np.ndarray  # bool (H, W)
    box: tuple[int, int, int, int]  # x, y, width, height in px of the mask
    peak: float  # of the anomaly map, like `mean`
    mean: float
    kind: str
    confidence: float  # in the kind, in (0, 1]
    areas: Mapping[str, float]  # share of the defect in each area of the layout
    measures: Mapping[str, float | int | None]  # by the names of `UNITS`; None for those that do not apply
    severity: float  # in [0, 1]
    grade: str

    def record(self) -> dict[str, Any]:
        """Returns a JSON-ready record without the mask and without measures that do not apply."""
        areas = {name: round(share, 4) for name, share in self.areas.items() if share > 0}
        measures = {name: _round(value) for name, value in self.measures.items() if value is not None}
        return {
            "type": self.kind, "confidence": round(self.confidence, 4), "severity": round(self.severity, 4),
            "grade": self.grade, "box": list(self.box), "peak": _round(self.peak), "mean": _round(self.mean),
            "areas": areas, "measures": measures,
        }  # fmt: skip


@dataclass(frozen=True)
class Inspector:
    """Finds and classifies the defects of one product; fitted to OK images, then constant."""

    settings: Defects
    layout: Layout
    reference: Reference
    levels: MapLevels

    def inspect(
        self, values: np.ndarray, image: np.ndarray, threshold: float, shown: tuple[float, float] | None = None
    ) -> tuple[Defect, ...]:
        """Returns the defects of an image, uint8 RGB (H, W, 3), with an anomaly map (h, w), the worst first.

        Both are resized to the reference, in whose px everything is measured. threshold: of the map's pixels. shown:
        height and width of what they show, in px of the image file; None: the image's own.
        """
        shape, difference, scale = self.reference.shape, None, self.settings.scale_mm_per_px
        height, width = image.shape[:2] if shown is None else shown
        mm = (scale * width / shape[1], scale * height / shape[0]) if scale else None
        scene = Scene(resize_image(image, *shape), self.layout, mm_per_px=mm)
        values = np.ascontiguousarray(values, np.float32)
        if values.shape != shape:
            values = cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR)
        regions = find_regions(values, threshold, self.levels.low, self.levels.base, self.settings.regions)
        if regions and self.reference.fixed:
            scene, difference = self._compared(scene, np.any([region.zone for region in regions], axis=0))
        extents = [self._extent(region, scene, difference) for region in regions]
        regions, masks = join_overlapping(regions, extents, values)
        all_masks = np.any(masks, axis=0) if masks else np.zeros(shape, bool)
        defects = [
            self._defect(region, mask, scene, all_masks, region.peak / threshold if threshold > 0 else 0.0)
            for region, mask in zip(regions, masks, strict=True)
        ]
        return tuple(sorted(defects, key=lambda defect: -defect.severity))

    def accepts(self, defects: Sequence[Defect]) -> bool:
        """Whether a product with these defects is accepted."""
        return accepts(self.settings.severity, [defect.grade for defect in defects])

    def save(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Writes the files that `load_inspector` reads; `config` is the source of the settings."""
        layout, reference = self.layout, self.reference
        product = {"areas": layout.names, "found_by": dict(layout.found_by)}
        product |= {name: getattr(reference, name) for name in NUMBERS}
        with atomic_path(folder / "inspector.npz") as temporary:
            np.savez_compressed(
                temporary, image=reference.image, precision=reference.precision, palette_mean=reference.palette.mean,
                palette_precision=reference.palette.precision, numbers=layout.numbers, foreground=layout.foreground,
            )  # fmt: skip
        record = {"levels": asdict(self.levels), "product": product, "settings": dict(config)}
        write_json(folder / "inspector.json", record)

    def _compared(self, scene: Scene, suspect: np.ndarray) -> tuple[Scene, np.ndarray]:
        """Returns the scene with the aligned, relit reference, and the change at each pixel."""
        reference = self.reference
        pose = find_pose(scene.image, reference.image, reference.motion)
        matched = relit(scene.image, lay_over(reference.image, pose), ~suspect)
        foreground = lay_over(self.layout.foreground.astype(np.uint8), pose, nearest=True) > 0
        layout = replace(self.layout, numbers=lay_over(self.layout.numbers, pose, nearest=True), foreground=foreground)
        difference = change(scene.image, matched, lay_over(reference.precision, pose))
        return replace(scene, layout=layout, reference=matched, palette=reference.palette), difference

    def _extent(self, region: Region, scene: Scene, difference: np.ndarray | None) -> np.ndarray:
        if difference is None:
            return region.mask
        in_text = occupied(region.mask, scene.layout).get(TEXT, 0.0) > 0.6
        return extent(region, difference, self.reference.usual, self.reference.rare, in_text, self.settings.extent)

    def _defect(self, region: Region, mask: np.ndarray, scene: Scene, all_masks: np.ndarray, ratio: float) -> Defect:
        measures, shares = measure(mask, scene, all_masks, ratio), occupied(mask, scene.layout)
        kind, confidence = classify(self.settings.types, shares, measures)
        severity = severity_of(self.settings.severity, kind, measures)
        grade = grade_of(self.settings.severity, severity)
        return Defect(mask, box_of(mask), region.peak, region.mean, kind, confidence, shares, measures, severity, grade)


def prepare_inspector(
    config: Mapping[str, Any], ok_images: Iterable[np.ndarray], levels: MapLevels, template: np.ndarray | None = None
) -> Inspector:
    """Fits an inspector to OK images.

    Args:
        config: Plain values, as in conf/defects.
        ok_images, template: See `fit_reference`.
        levels: Of the anomaly maps of held-out OK images.
    """
    settings = read_settings(config)
    reference = fit_reference(ok_images, template, settings.alignment)
    if template is not None and reference.fixed and (alike := likeness(reference.image, template)) < FOREIGN:
        message = "the template does not look like the OK images (correlation %.2f): check that it shows this product "
        log.warning(message + "in the same position", alike)
    layout, picture = settings.layout, reference.image if template is None else template
    if not reference.fixed:  # a texture has no text or contour to search for; areas that the user drew stay
        foreground = "none" if layout.foreground in ("otsu", "grabcut") else layout.foreground
        text = "none" if layout.text == "auto" else layout.text
        layout, picture = replace(layout, foreground=foreground, text=text), reference.image
    return Inspector(settings, find_layout(picture, layout), reference, levels)


def load_inspector(folder: Path) -> Inspector:
    """Loads an inspector written by `Inspector.save`. Raises UserError if its files are missing or damaged."""
    try:
        stored = json.loads((folder / "inspector.json").read_text(encoding="utf-8"))
        with np.load(folder / "inspector.npz", allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder} holds no complete inspector: train the run again to classify defects.") from error
    product = stored["product"]
    palette = Palette(arrays["palette_mean"], arrays["palette_precision"])
    reference = Reference(arrays["image"], arrays["precision"], palette, *(product[name] for name in NUMBERS))
    layout = Layout(tuple(product["areas"]), arrays["numbers"], arrays["foreground"], product["found_by"])
    return Inspector(read_settings(stored["settings"]), layout, reference, MapLevels(**stored["levels"]))


def _round(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")
