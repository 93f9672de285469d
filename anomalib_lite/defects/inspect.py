"""From an anomaly map and its picture to defects with type, measures and severity."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomalib_lite.data.decode import resize_image
from anomalib_lite.defects.defect import Defect, Inspection
from anomalib_lite.defects.extent import extent
from anomalib_lite.defects.layout import TEXT, Layout, find_layout
from anomalib_lite.defects.levels import MapLevels
from anomalib_lite.defects.measures import Scene, measure, occupied
from anomalib_lite.defects.reference import Reference, change, fit_reference, photometric
from anomalib_lite.defects.regions import Region, box_of, find_regions
from anomalib_lite.defects.settings import DefectSettings, read_settings
from anomalib_lite.defects.types import classify
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import write_json


@dataclass(frozen=True)
class Inspector:
    """What it takes to name the defects of one product: found from OK images, then only read."""

    settings: DefectSettings
    layout: Layout
    reference: Reference
    levels: MapLevels

    def inspect(self, values: np.ndarray, image: np.ndarray, threshold: float) -> Inspection:
        """values: the anomaly map, float (h, w). image: uint8 RGB (H, W, 3) of any size; it is brought to the
        reference's, in whose px all is measured. threshold: the map's, for pixels.
        """
        shape = self.reference.shape
        scene, difference = self._scene(image), None
        values = _fitted(values, shape)
        regions = find_regions(values, threshold, self.levels.low, self.levels.base, self.settings.regions)
        if regions and self.reference.fixed:
            scene, difference = self._compared(scene, np.any([region.zone for region in regions], axis=0))
        masks = self._masks(regions, scene, difference)
        everywhere = np.any(masks, axis=0) if masks else np.zeros(shape, bool)
        found = [
            self._defect(region, mask, scene, everywhere, region.peak / threshold if threshold > 0 else 0.0)
            for region, mask in zip(regions, masks, strict=True)
        ]
        found.sort(key=lambda defect: -defect.severity)
        return Inspection(tuple(found), self.settings.severity.accepts([defect.grade for defect in found]))

    def save(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Writes the layout, the reference, the map's levels and the settings to a folder, which `load_inspector`
        reads; `config` is what the settings were read from.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.layout.save(folder)
        self.reference.save(folder)
        write_json(folder / "inspector.json", {"levels": self.levels.to_dict(), "settings": dict(config)})

    def _scene(self, image: np.ndarray) -> Scene:
        height, width = self.reference.shape
        scale, mm = self.settings.scale_mm_per_px, None
        if scale is not None:
            mm = (scale * image.shape[1] / width, scale * image.shape[0] / height)
        return Scene(resize_image(image, height, width), self.layout, mm_per_px=mm)

    def _compared(self, scene: Scene, suspect: np.ndarray) -> tuple[Scene, np.ndarray]:
        """The scene with the good product laid over the picture, in its light, and the change at each pixel."""
        placing = self.reference.place(scene.image)
        matched = photometric(scene.image, placing.to_picture(self.reference.image), ~suspect)
        layout = replace(
            self.layout,
            numbers=placing.to_picture(self.layout.numbers, nearest=True),
            foreground=placing.to_picture(self.layout.foreground.astype(np.uint8), nearest=True) > 0,
        )
        difference = change(scene.image, matched, placing.to_picture(self.reference.precision))
        return replace(scene, layout=layout, reference=matched, palette=self.reference.palette), difference

    def _masks(self, regions: list[Region], scene: Scene, difference: np.ndarray | None) -> list[np.ndarray]:
        if difference is None:
            return [region.mask for region in regions]
        usual, rare = self.reference.usual, self.reference.rare
        masks = []
        for region in regions:
            in_text = occupied(region.mask, scene.layout).get(TEXT, 0.0) > 0.6
            masks.append(extent(region, difference, usual, rare, in_text, self.settings.extent))
        return masks

    def _defect(self, region: Region, mask: np.ndarray, scene: Scene, others: np.ndarray, ratio: float) -> Defect:
        measures, shares = measure(mask, scene, others, ratio), occupied(mask, scene.layout)
        rule, confidence = classify(self.settings.types, shares, measures)
        severity = self.settings.severity.severity(rule.name, measures)
        grade = self.settings.severity.grade(severity)
        return Defect(
            mask, box_of(mask), region.peak, region.mean, rule.name, confidence, shares, measures, severity, grade
        )


def prepare_inspector(
    config: Mapping[str, Any], ok_images: Iterable[np.ndarray], levels: MapLevels, template: np.ndarray | None = None
) -> Inspector:
    """From OK images alone, uint8 RGB (H, W, 3) of one size each; the first 64 are used.

    config: plain values, as conf/defects holds them. levels: of the maps of held-out OK images. template: the perfect
    product at the images' size, in whose coordinates layout and reference then lie; without one, the OK images' median.
    """
    settings = read_settings(config)
    reference = fit_reference(ok_images, template, settings.alignment)
    if reference.fixed:
        layout = find_layout(reference.image if template is None else template, settings.layout)
    else:  # a texture: it has neither text nor contour of its own, but what a user drew counts
        layout = find_layout(reference.image, replace(settings.layout, **_texture(settings)))
    return Inspector(settings, layout, reference, levels)


def load_inspector(folder: Path) -> Inspector:
    """The inspector that `Inspector.save` wrote. Errors: UserError where its files do not belong together."""
    if not (folder / "inspector.json").is_file():
        raise UserError(f"{folder} holds no inspector: train the run again to have defects named and measured.")
    stored = json.loads((folder / "inspector.json").read_text(encoding="utf-8"))
    layout, reference = Layout.load(folder), Reference.load(folder)
    check_layout(layout, reference.shape)
    return Inspector(read_settings(stored["settings"]), layout, reference, MapLevels(**stored["levels"]))


def check_layout(layout: Layout, shape: tuple[int, int]) -> None:
    """Errors: UserError for a layout of another size than the pictures that it is laid over."""
    if layout.shape != shape:
        sizes = " and ".join(f"{width} x {height} px" for height, width in (layout.shape, shape))
        raise UserError(f"The product's layout and its reference picture differ in size: {sizes}. Train the run again.")


def _texture(settings: DefectSettings) -> dict[str, Any]:
    drawn = settings.layout
    return {
        "foreground": "none" if drawn.foreground in ("otsu", "grabcut") else drawn.foreground,
        "text": "none" if drawn.text == "auto" else drawn.text,
    }


def _fitted(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float32)
    return values if values.shape == shape else cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR)
