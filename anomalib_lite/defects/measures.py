"""Measures a defect: its size, colour, sharpness and displacement, against the good product or its surroundings."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import dijkstra
from skimage.color import deltaE_ciede2000
from skimage.graph import pixel_graph
from skimage.measure import label
from skimage.morphology import skeletonize

from anomalib_lite.defects.layout import TEXT, Layout
from anomalib_lite.defects.reference import Palette, to_lab

UNITS = {
    "area_px": "px", "area_mm2": "mm²", "area_share": "of the picture", "area_of_part": "of the part it lies in",
    "length_px": "px", "width_px": "px", "length_mm": "mm", "width_mm": "mm", "pieces": "count",
    "colour_difference": "CIEDE2000", "contrast": "Michelson, 0 to 1", "off_colour": "standard deviations",
    "sharpness_loss": "share of gradient energy", "blur_likeness": "share of the change",
    "ink_gained": "share of the ink that moved", "drawing_likeness": "correlation", "edge_displacement_px": "px",
    "edge_displacement_share": "of the shorter side", "map_ratio": "× threshold",
}  # fmt: skip
_TRACE = 0.08  # change of an ink's coverage below which it counts as noise
_WIDTHS = (0.7, 1.0, 1.5, 2.0, 3.0, 4.5)  # standard deviations of candidate blurs, in px of an image of 256 px
Values = dict[str, float | int | None]


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns x, y, width and height in px of the bounding box of a non-empty mask."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, width, height


def length_width_and_pieces(mask: np.ndarray) -> tuple[float, float, int]:
    """Measures a mask (H, W): its length and mean width in px, and the number of connected pieces.

    The length is that of the longest path through the skeleton, extended to the outline at both ends, summed over the
    pieces; the width is the area divided by it. A straight stroke of L x W px gives L and W; a disc gives its diameter
    and pi / 4 of it.
    """
    numbers = label(mask, connectivity=2)
    windows = ndimage.find_objects(numbers)
    length = sum(_length(np.pad(numbers[window] == number, 1)) for number, window in enumerate(windows, start=1))
    return float(length), float(mask.sum() / length) if length else 0.0, len(windows)


def _length(piece: np.ndarray) -> float:
    skeleton = skeletonize(piece)
    depth = ndimage.distance_transform_edt(piece)[skeleton] - 0.5  # from a pixel's centre to the outline
    if len(depth) == 1:
        return float(2 * depth[0])
    graph, _ = pixel_graph(skeleton, connectivity=2)
    # The point farthest from any start is one end of the longest path (exact for trees, which skeletons nearly are).
    first = int(np.argmax(dijkstra(graph, directed=False, indices=0)))
    distances = dijkstra(graph, directed=False, indices=first)
    last = int(np.argmax(distances))
    return float(distances[last] + depth[first] + depth[last])


def edge_displacement(actual: np.ndarray, expected: np.ndarray, near: np.ndarray) -> float:
    """Computes how far edges have moved within a defect, in px, as a robust Hausdorff distance.

    The larger of the distances from actual to expected edges and back, each as its 90th percentile (Huttenlocher,
    Klanderman, Rucklidge, PAMI 1993), but at most the defect's diagonal. An edge shifted by d gives d. Takes the
    product's pixels in the image and in the reference, and the defect's, each bool (H, W).
    """
    edges = outline(actual), outline(expected)
    if not any((edge & near).any() for edge in edges):
        return 0.0
    farthest = [float(np.hypot(*box_of(near)[2:]))] * 2
    for k, (edge, other) in enumerate((edges, edges[::-1])):
        if other.any():
            distance = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            inside = distance[edge & near]
            farthest[k] = min(farthest[k], float(np.quantile(inside, 0.9))) if len(inside) else 0.0
    return max(farthest)


def outline(mask: np.ndarray) -> np.ndarray:
    """Returns a mask's outermost pixels, bool (H, W), except at the image border."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


@dataclass(frozen=True)
class Scene:
    """An image with layout, reference and palette of the good product, aligned to the image.

    Reference and palette are None if the product has no fixed look.
    """

    image: np.ndarray  # uint8 RGB (H, W, 3)
    layout: Layout
    reference: np.ndarray | None = None  # float32 RGB (H, W, 3), relit to the image
    palette: Palette | None = None
    mm_per_px: tuple[float, float] | None = None  # horizontal and vertical

    @property
    def good(self) -> np.ndarray:
        """The reference; the product must have a fixed look."""
        assert self.reference is not None
        return self.reference

    @cached_property
    def lab(self) -> np.ndarray:
        return to_lab(self.image)

    @cached_property
    def gradients(self) -> tuple[np.ndarray, np.ndarray]:
        return gradients(self.image), gradients(self.good)

    @cached_property
    def light(self) -> tuple[np.ndarray, np.ndarray]:
        return linear(self.image), linear(self.good)  # blurring preserves the sum of linear light

    @cached_property
    def foregrounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The product's pixels in the image and in the reference, by a grey threshold.

        It is the mean of the reference's median grey values inside and outside the foreground.
        """
        grey, inside = self.good.mean(axis=2), self.layout.foreground
        if inside.all() or not inside.any():
            return inside, inside
        product, ground = np.median(grey[inside]), np.median(grey[~inside])
        above = np.greater if product > ground else np.less
        greys = self.image.astype(np.float32).mean(axis=2), self.good.clip(0, 255).round().mean(axis=2)
        return above(greys[0], (product + ground) / 2), above(greys[1], (product + ground) / 2)


def measure(mask: np.ndarray, scene: Scene, all_masks: np.ndarray, map_ratio: float) -> Values:
    """Measures a defect, bool (H, W): values in the order of `UNITS`, None for measures that do not apply.

    all_masks: all defects, which do not count as surroundings. map_ratio: peak of the anomaly map / threshold.
    """
    length, width, pieces = length_width_and_pieces(mask)
    area, shares = int(mask.sum()), occupied(mask, scene.layout)
    part = scene.layout.area(max(shares, key=shares.__getitem__))
    values: Values = dict.fromkeys(UNITS) | {
        "area_px": area, "area_share": area / mask.size, "area_of_part": float((mask & part).sum() / part.sum()),
        "length_px": length, "width_px": width, "pieces": pieces, "map_ratio": map_ratio,
    }  # fmt: skip
    if scene.mm_per_px is not None:
        horizontal, vertical = scene.mm_per_px
        side = min(scene.mm_per_px)
        if horizontal != vertical:  # measured again, in square pixels
            size = round(mask.shape[1] * horizontal / side), round(mask.shape[0] * vertical / side)
            square = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            length, width, _ = length_width_and_pieces(square > 0)
        values |= {"area_mm2": area * horizontal * vertical, "length_mm": length * side, "width_mm": width * side}
    if scene.palette is not None:
        values["off_colour"] = float(scene.palette.distance(scene.lab[mask]).mean())
    if scene.reference is not None:
        values |= _against_reference(mask, scene)
    elif (ring := surroundings(mask, all_masks)).any():
        values["colour_difference"] = colour_difference(scene.lab[mask], scene.lab[ring])
        values["contrast"] = contrast(scene.image[mask], scene.image[ring])
    return values


def occupied(mask: np.ndarray, layout: Layout) -> dict[str, float]:
    """Returns the share of a defect that lies in each area."""
    counts = np.bincount(layout.numbers[mask], minlength=len(layout.names))
    return {name: float(count / mask.sum()) for name, count in zip(layout.names, counts, strict=True)}


def _against_reference(mask: np.ndarray, scene: Scene) -> Values:
    text = scene.layout.area(TEXT)
    actual, expected = (foreground & ~text for foreground in scene.foregrounds)
    shift = edge_displacement(actual, expected, mask & ~text)
    values: Values = {
        "colour_difference": colour_difference(scene.lab[mask], to_lab(scene.good)[mask]),
        "contrast": contrast(scene.image[mask], scene.good[mask]),
        "drawing_likeness": drawing_likeness(*scene.gradients, mask),
        "edge_displacement_px": shift,
        "edge_displacement_share": shift / min(mask.shape),
    }
    if (printed := mask & text).any():
        values["sharpness_loss"] = sharpness_loss(*scene.gradients, printed)
        values["blur_likeness"] = blur_likeness(*scene.light, printed)
        values["ink_gained"] = ink_gained(*scene.light, printed, text)
    return values


def surroundings(mask: np.ndarray, all_masks: np.ndarray) -> np.ndarray:
    """Returns a ring around a defect without other defects, as wide as 1/3 of the diameter of a disc of its area."""
    width = max(2.0, (mask.sum() / np.pi) ** 0.5 * 2 / 3)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return (distance > 1) & (distance <= 1 + width) & ~all_masks


def colour_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Computes the CIEDE2000 difference of the mean colours of CIE Lab pixels (n, 3) and (m, 3); 1 is just noticeable.

    Source: Luo, Cui, Rigg, Color Research & Application 2001.
    """
    a, b = (pixels.astype(np.float64).mean(axis=0) for pixels in (first, second))
    return float(deltaE_ciede2000(a[None], b[None])[0])


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    """Computes the Michelson contrast, in [0, 1], of the mean luminances of sRGB pixels (n, 3) and (m, 3)."""
    a, b = ((linear(pixels) @ np.array([0.2126, 0.7152, 0.0722])).mean() for pixels in (first, second))
    return float(abs(a - b) / (a + b)) if a + b > 0 else 0.0


def linear(rgb: np.ndarray) -> np.ndarray:
    """Converts sRGB values in [0, 255] to linear light in [0, 1] (IEC 61966-2-1)."""
    srgb = np.asarray(rgb, np.float64) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def gradients(image: np.ndarray) -> np.ndarray:
    """Computes central differences of an RGB or grey image's grey values along x and y: float32 (H, W, 2)."""
    grey: np.ndarray = np.ascontiguousarray(image, np.float32)
    if grey.ndim == 3:
        grey = cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY)
    kernel = np.array([[-0.5, 0, 0.5]], np.float32)
    return np.dstack([cv2.filter2D(grey, -1, k, borderType=cv2.BORDER_REPLICATE) for k in (kernel, kernel.T)])


def sharpness_loss(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Returns the share of the reference's gradient energy that the image lacks within the mask; 0 if it lacks none.

    Both are `gradients`. Blurring an edge of width s px (as a Gaussian) by t px loses 1 - s / sqrt(s^2 + t^2).
    """
    expected = float((reference[mask] ** 2).sum())
    return float(np.clip(1 - (image[mask] ** 2).sum() / expected, 0, 1)) if expected > 0 else 0.0


def drawing_likeness(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Computes the correlation, in [-1, 1], of two `gradients` within the mask; 0 if either is zero.

    It stays near 1 under haze or another colour, but drops where a part is bent, missing or added.
    """
    a, b = image[mask].astype(np.float64), reference[mask].astype(np.float64)
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def blur_likeness(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Returns the share of a change within the mask that the best of a few Gaussian blurs of the reference explains.

    Compares squared differences of images (H, W, 3) in linear light.
    """
    unit, (x, y, width, height) = max(min(mask.shape) / 256, 0.4), box_of(mask)
    margin = round(3 * _WIDTHS[-1] * unit)
    window = slice(max(0, y - margin), y + height + margin), slice(max(0, x - margin), x + width + margin)
    actual, good = image[window], reference[window]
    near = cv2.dilate(mask[window].astype(np.uint8), np.ones((3, 3))) > 0
    candidates = [good, *(cv2.GaussianBlur(good, (0, 0), blur * unit) for blur in _WIDTHS)]
    residuals = [float(((actual - candidate)[near] ** 2).sum()) for candidate in candidates]
    return 1 - min(residuals) / residuals[0] if residuals[0] > 0 else 0.0


def ink_gained(image: np.ndarray, reference: np.ndarray, mask: np.ndarray, text: np.ndarray) -> float | None:
    """Returns the share of added ink in all ink that a defect added or removed; None if there is no such ink.

    It is 0 for missing print, about 1/2 for blurred and 1 for smeared print. Images (H, W, 3) are in linear light. The
    background has the reference's colour along the rim of the text area, ink that of the fifth which differs most.
    """
    rim = text & ~cv2.erode(text.astype(np.uint8), np.ones((3, 3)), borderValue=0).astype(bool)
    colours = reference[text] - np.median(reference[rim], axis=0)
    difference = np.linalg.norm(colours, axis=1)
    ink = colours[difference >= np.quantile(difference, 0.8)].mean(axis=0)
    moved = (image[mask] - reference[mask]) @ ink / max(float(ink @ ink), 1e-6)
    gained, lost = moved[moved > _TRACE].sum(), -moved[moved < -_TRACE].sum()
    return float(gained / (gained + lost)) if gained + lost > 0 else None
