"""From an anomaly map and its picture to defects with type, measures and severity."""

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

FOREIGN = 0.5  # correlation of a template with the OK images' median: of its own product it has more than 0.8


@dataclass(frozen=True)
class Defect:
    """mask: bool (H, W) at the resolution of inspection. box: x, y, width, height in its px. peak, mean: of the map.
    kind: name of the type, with the confidence in (0, 1] that its rule has. areas: share of the defect in each.
    measures: by the names of `UNITS`, None where one could not be taken. severity: in [0, 1], with its grade.
    """

    mask: np.ndarray
    box: tuple[int, int, int, int]
    peak: float
    mean: float
    kind: str
    confidence: float
    areas: Mapping[str, float]
    measures: Mapping[str, float | int | None]
    severity: float
    grade: str

    def record(self) -> dict[str, Any]:
        """JSON-ready, without the mask; measures that were not taken are left out."""
        areas = {name: round(share, 4) for name, share in self.areas.items() if share > 0}
        measures = {name: _short(value) for name, value in self.measures.items() if value is not None}
        return {
            "type": self.kind, "confidence": round(self.confidence, 4), "severity": round(self.severity, 4),
            "grade": self.grade, "box": list(self.box), "peak": _short(self.peak), "mean": _short(self.mean),
            "areas": areas, "measures": measures,
        }  # fmt: skip


@dataclass(frozen=True)
class Inspector:
    """What it takes to name the defects of one product: found from OK images, then only read."""

    settings: Defects
    layout: Layout
    reference: Reference
    levels: MapLevels

    def inspect(self, values: np.ndarray, image: np.ndarray, threshold: float) -> tuple[Defect, ...]:
        """The defects of an image, uint8 RGB (H, W, 3), by its anomaly map (h, w) and the map's threshold for pixels.

        The worst comes first. Both are brought to the reference's size, in whose px all is measured.
        """
        shape, difference = self.reference.shape, None
        scale, mm = self.settings.scale_mm_per_px, None
        if scale is not None:
            mm = (scale * image.shape[1] / shape[1], scale * image.shape[0] / shape[0])
        scene = Scene(resize_image(image, *shape), self.layout, mm_per_px=mm)
        values = np.ascontiguousarray(values, np.float32)
        if values.shape != shape:
            values = cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR)
        regions = find_regions(values, threshold, self.levels.low, self.levels.base, self.settings.regions)
        if regions and self.reference.fixed:
            scene, difference = self._compared(scene, np.any([region.zone for region in regions], axis=0))
        extents = [self._extent(region, scene, difference) for region in regions]
        regions, masks = join_overlapping(regions, extents, values)
        everywhere = np.any(masks, axis=0) if masks else np.zeros(shape, bool)
        found = [
            self._defect(region, mask, scene, everywhere, region.peak / threshold if threshold > 0 else 0.0)
            for region, mask in zip(regions, masks, strict=True)
        ]
        return tuple(sorted(found, key=lambda defect: -defect.severity))

    def accepts(self, defects: Sequence[Defect]) -> bool:
        """Whether a product with these defects passes."""
        return accepts(self.settings.severity, [defect.grade for defect in defects])

    def save(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Writes what `load_inspector` reads; `config` is what the settings were read from."""
        layout, reference = self.layout, self.reference
        known = {"areas": layout.names, "found_by": dict(layout.found_by)}
        known |= {name: getattr(reference, name) for name in ("usual", "rare", "alike", "motion")}
        with atomic_path(folder / "inspector.npz") as temporary:
            np.savez_compressed(
                temporary, image=reference.image, precision=reference.precision, palette_mean=reference.palette.mean,
                palette_precision=reference.palette.precision, numbers=layout.numbers, foreground=layout.foreground,
            )  # fmt: skip
        record = {"levels": asdict(self.levels), "product": known, "settings": dict(config)}
        write_json(folder / "inspector.json", record)

    def _compared(self, scene: Scene, suspect: np.ndarray) -> tuple[Scene, np.ndarray]:
        """The scene with the good product laid over the picture, in its light, and the change at each pixel."""
        reference, layout = self.reference, self.layout
        pose = find_pose(scene.image, reference.image, reference.motion)
        matched = relit(scene.image, lay_over(reference.image, pose), ~suspect)
        moved = replace(
            layout,
            numbers=lay_over(layout.numbers, pose, nearest=True),
            foreground=lay_over(layout.foreground.astype(np.uint8), pose, nearest=True) > 0,
        )
        difference = change(scene.image, matched, lay_over(reference.precision, pose))
        return replace(scene, layout=moved, reference=matched, palette=reference.palette), difference

    def _extent(self, region: Region, scene: Scene, difference: np.ndarray | None) -> np.ndarray:
        if difference is None:
            return region.mask
        in_text = occupied(region.mask, scene.layout).get(TEXT, 0.0) > 0.6
        return extent(region, difference, self.reference.usual, self.reference.rare, in_text, self.settings.extent)

    def _defect(self, region: Region, mask: np.ndarray, scene: Scene, others: np.ndarray, ratio: float) -> Defect:
        measures, shares = measure(mask, scene, others, ratio), occupied(mask, scene.layout)
        kind, confidence = classify(self.settings.types, shares, measures)
        severity = severity_of(self.settings.severity, kind, measures)
        grade = grade_of(self.settings.severity, severity)
        return Defect(mask, box_of(mask), region.peak, region.mean, kind, confidence, shares, measures, severity, grade)


def prepare_inspector(
    config: Mapping[str, Any], ok_images: Iterable[np.ndarray], levels: MapLevels, template: np.ndarray | None = None
) -> Inspector:
    """From OK images alone, uint8 RGB (H, W, 3) of one size each; the first 64 are used.

    Args:
        config: Plain values, as conf/defects holds them.
        levels: Of the maps of held-out OK images.
        template: The perfect product at their size, over which all is laid; without one, the OK images' median.
    """
    settings = read_settings(config)
    reference = fit_reference(ok_images, template, settings.alignment)
    if template is not None and reference.fixed and (alike := likeness(reference.image, template)) < FOREIGN:
        log.warning(
            "the template does not look like the OK images (correlation %.2f): does it show this product, in the same "
            "position?",
            alike,
        )
    drawn, picture = settings.layout, reference.image if template is None else template
    if not reference.fixed:  # a texture: it has neither text nor contour of its own, but what a user drew counts
        foreground = "none" if drawn.foreground in ("otsu", "grabcut") else drawn.foreground
        drawn = replace(drawn, foreground=foreground, text="none" if drawn.text == "auto" else drawn.text)
        picture = reference.image
    return Inspector(settings, find_layout(picture, drawn), reference, levels)


def load_inspector(folder: Path) -> Inspector:
    """The inspector that `Inspector.save` wrote. Errors: UserError where its files are missing or damaged."""
    try:
        stored = json.loads((folder / "inspector.json").read_text(encoding="utf-8"))
        with np.load(folder / "inspector.npz", allow_pickle=False) as arrays:
            planes = dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder} holds no whole inspector: train the run again to have defects named.") from error
    known = stored["product"]
    palette = Palette(planes["palette_mean"], planes["palette_precision"])
    numbers = {name: known[name] for name in ("usual", "rare", "alike", "motion")}
    reference = Reference(planes["image"], planes["precision"], palette, **numbers)
    layout = Layout(tuple(known["areas"]), planes["numbers"], planes["foreground"], known["found_by"])
    return Inspector(read_settings(stored["settings"]), layout, reference, MapLevels(**stored["levels"]))


def _short(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")
