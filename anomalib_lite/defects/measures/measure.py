"""All measures of one defect, each by its name and with its unit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anomalib_lite.defects.layout import TEXT, Layout
from anomalib_lite.defects.measures.colour import colour_difference, contrast, linear, surroundings
from anomalib_lite.defects.measures.edges import edge_displacement
from anomalib_lite.defects.measures.shape import length_and_width, pieces
from anomalib_lite.defects.measures.sharpness import (
    blur_likeness,
    drawing_likeness,
    gradients,
    ink_cover,
    ink_gained,
    sharpness_loss,
)
from anomalib_lite.defects.palette import Palette
from anomalib_lite.defects.reference import to_lab

UNITS = {
    "area_px": "px", "area_mm2": "mm²", "area_share": "of the picture", "area_of_part": "of the part it lies in",
    "length_px": "px", "width_px": "px", "length_mm": "mm", "width_mm": "mm", "pieces": "count",
    "colour_difference": "CIEDE2000", "contrast": "Michelson, 0 to 1", "off_colour": "standard deviations",
    "sharpness_loss": "share of gradient energy", "ink_gained": "share of the ink that moved",
    "blur_likeness": "share of the change", "drawing_likeness": "correlation", "edge_displacement_px": "px",
    "edge_displacement_share": "of the shorter side", "map_ratio": "× threshold",
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 RGB (H, W, 3), with what is known of the good product as it lies in it.

    reference: float32 RGB (H, W, 3) in the picture's light, None where the product has no fixed look. layout: carried
    onto the picture. palette: the product's colours. mm_per_px: of this picture's pixels (across, down), or None.
    """

    image: np.ndarray
    layout: Layout
    reference: np.ndarray | None = None
    palette: Palette | None = None
    mm_per_px: tuple[float, float] | None = None

    @cached_property
    def lab(self) -> np.ndarray:
        return to_lab(self.image)

    @cached_property
    def gradients(self) -> np.ndarray:
        return gradients(self.image)

    @cached_property
    def wanted_gradients(self) -> np.ndarray:
        return gradients(self.reference)

    @cached_property
    def foreground(self) -> np.ndarray:
        """The product's pixels in this picture: nearer to what the good product's foreground looks like.

        By grey value alone, halfway between the reference's two sides, on the side where its foreground lies.
        """
        wanted, inside = self.reference.mean(axis=2), self.layout.foreground
        if inside.all() or not inside.any():
            return inside
        bright, dark = np.median(wanted[inside]), np.median(wanted[~inside])
        grey = self.image.astype(np.float32).mean(axis=2)
        return grey > (bright + dark) / 2 if bright > dark else grey < (bright + dark) / 2

    @cached_property
    def wanted_foreground(self) -> np.ndarray:
        """The same rule on the reference, so that its edges lie where an unchanged picture has them."""
        good = Scene(np.clip(np.rint(self.reference), 0, 255).astype(np.uint8), self.layout, self.reference)
        return good.foreground


def measure(mask: np.ndarray, scene: Scene, others: np.ndarray, map_ratio: float) -> dict[str, float | int | None]:
    """The measures of the defect that covers `mask` (H, W), in the order of UNITS; None where one cannot be taken.

    others: bool (H, W), all defects of the picture, which are no surroundings to compare with. map_ratio: peak of the
    map over the threshold.
    """
    length, width = length_and_width(mask)
    area = int(mask.sum())
    part = max(occupied(mask, scene.layout).items(), key=lambda item: item[1])[0]
    values: dict[str, float | int | None] = dict.fromkeys(UNITS)
    values |= {
        "area_px": area, "area_share": area / mask.size,
        "area_of_part": float((mask & scene.layout.area(part)).sum() / scene.layout.area(part).sum()),
        "length_px": length, "width_px": width, "pieces": pieces(mask), "map_ratio": map_ratio,
    }  # fmt: skip
    if scene.mm_per_px is not None:
        across, down = scene.mm_per_px
        mean = (across * down) ** 0.5
        values |= {"area_mm2": area * across * down, "length_mm": length * mean, "width_mm": width * mean}
    if scene.palette is not None:
        values["off_colour"] = float(scene.palette.distance(scene.lab[mask]).mean())
    if scene.reference is None:
        values |= _against_surroundings(mask, scene, others)
    else:
        values |= _against_reference(mask, scene)
    return values


def occupied(mask: np.ndarray, layout: Layout) -> dict[str, float]:
    """Which share of a defect lies in each area."""
    counts = np.bincount(layout.numbers[mask], minlength=len(layout.names))
    return {name: float(count / mask.sum()) for name, count in zip(layout.names, counts, strict=True)}


def _against_surroundings(mask: np.ndarray, scene: Scene, others: np.ndarray) -> dict[str, float | None]:
    ring = surroundings(mask, others)
    if not ring.any():
        return {}
    return {
        "colour_difference": colour_difference(scene.lab[mask], scene.lab[ring]),
        "contrast": contrast(scene.image[mask], scene.image[ring]),
    }


def _against_reference(mask: np.ndarray, scene: Scene) -> dict[str, float | None]:
    reference = scene.reference
    assert reference is not None
    values: dict[str, float | None] = {
        "colour_difference": colour_difference(scene.lab[mask], to_lab(reference)[mask]),
        "contrast": contrast(scene.image[mask], reference[mask]),
        "drawing_likeness": drawing_likeness(scene.gradients, scene.wanted_gradients, mask),
    }
    text = scene.layout.area(TEXT) if TEXT in scene.layout.names else np.zeros_like(mask)
    if (mask & text).any():
        values["sharpness_loss"] = sharpness_loss(scene.gradients, scene.wanted_gradients, mask & text)
        light, wanted = linear(scene.image), linear(reference)
        covers = [ink_cover(picture, wanted, text) for picture in (light, wanted)]
        values["ink_gained"] = ink_gained(*covers, mask & text)
        values["blur_likeness"] = blur_likeness(light, wanted, mask & text)
    shift = edge_displacement(scene.foreground & ~text, scene.wanted_foreground & ~text, mask & ~text)
    values["edge_displacement_px"] = shift
    values["edge_displacement_share"] = shift / min(mask.shape)
    return values
