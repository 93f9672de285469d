"""What is measured of a defect."""

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
_TRACE = 0.08  # of an ink's cover: less is noise
_WIDTHS = (0.7, 1.0, 1.5, 2.0, 3.0, 4.5)  # of blurs, in px of a picture of 256
Values = dict[str, float | int | None]


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height in px of the smallest box around a mask that is not empty."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, width, height


def length_width_and_pieces(mask: np.ndarray) -> tuple[float, float, int]:
    """Of a mask (H, W): px along the longest way through its skeleton, px across it on average, and connected parts.

    The way's ends are prolonged to the mask's outline; the width is the area divided by the length. Of several pieces
    the lengths add up. A straight stroke of L x W px gives L and W; a disc gives its diameter and pi / 4 of it.
    """
    numbers = label(mask, connectivity=2)
    windows = ndimage.find_objects(numbers)
    length = sum(_length(np.pad(numbers[window] == number, 1)) for number, window in enumerate(windows, start=1))
    return float(length), float(mask.sum() / length) if length else 0.0, len(windows)


def _length(piece: np.ndarray) -> float:
    bones = skeletonize(piece)
    depth = ndimage.distance_transform_edt(piece)[bones] - 0.5  # from a pixel's middle to the outline
    if len(depth) == 1:
        return float(2 * depth[0])
    graph, _ = pixel_graph(bones, connectivity=2)
    # The farthest point from anywhere is one end of the longest way (exact for trees, which skeletons nearly are).
    first = int(np.argmax(dijkstra(graph, directed=False, indices=0)))
    ways = dijkstra(graph, directed=False, indices=first)
    last = int(np.argmax(ways))
    return float(ways[last] + depth[first] + depth[last])


def edge_displacement(found: np.ndarray, wanted: np.ndarray, near: np.ndarray) -> float:
    """How far found edges lie from wanted ones within `near`, and the other way round, in px: the larger of the two.

    Of each direction the 90th percentile counts (a robust Hausdorff distance: Huttenlocher, Klanderman, Rucklidge,
    PAMI 1993). An edge that was shifted by d gives d; none counts as moved farther than the defect is large. All are
    bool (H, W): the product's pixels in the picture and as they should be, and the defect's.
    """
    edges = outline(found), outline(wanted)
    if not any((edge & near).any() for edge in edges):
        return 0.0
    farthest = [float(np.hypot(*box_of(near)[2:]))] * 2
    for k, (edge, other) in enumerate((edges, edges[::-1])):
        if other.any():
            away = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            here = away[edge & near]
            farthest[k] = min(farthest[k], float(np.quantile(here, 0.9))) if len(here) else 0.0
    return max(farthest)


def outline(mask: np.ndarray) -> np.ndarray:
    """A mask's outermost pixels, bool (H, W); the picture's border is none."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 RGB (H, W, 3), with the layout and the reference of the good product as they lie in it.

    reference: float32 RGB (H, W, 3) in the picture's light, None where the product has no fixed look, as is the
    palette of its colours. mm_per_px: of this picture's pixels, across and down.
    """

    image: np.ndarray
    layout: Layout
    reference: np.ndarray | None = None
    palette: Palette | None = None
    mm_per_px: tuple[float, float] | None = None

    @property
    def good(self) -> np.ndarray:
        """The reference of a product that has one."""
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
        return linear(self.image), linear(self.good)  # where blurring keeps the sum

    @cached_property
    def foregrounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The product's pixels in the picture and in the reference: by grey value alone, on the foreground's side of
        halfway between the reference's two sides.
        """
        wanted, inside = self.good.mean(axis=2), self.layout.foreground
        if inside.all() or not inside.any():
            return inside, inside
        bright, dark = np.median(wanted[inside]), np.median(wanted[~inside])
        greys = self.image.astype(np.float32).mean(axis=2), self.good.clip(0, 255).round().mean(axis=2)
        seen, good = (grey > (bright + dark) / 2 if bright > dark else grey < (bright + dark) / 2 for grey in greys)
        return seen, good


def measure(mask: np.ndarray, scene: Scene, others: np.ndarray, map_ratio: float) -> Values:
    """The measures of the defect that covers `mask` (H, W), in the order of UNITS; None where one cannot be taken.

    others: bool (H, W), all defects of the picture, which are no surroundings. map_ratio: peak over threshold.
    """
    length, width, pieces = length_width_and_pieces(mask)
    area, shares = int(mask.sum()), occupied(mask, scene.layout)
    part = scene.layout.area(max(shares, key=shares.__getitem__))
    values: Values = dict.fromkeys(UNITS) | {
        "area_px": area, "area_share": area / mask.size, "area_of_part": float((mask & part).sum() / part.sum()),
        "length_px": length, "width_px": width, "pieces": pieces, "map_ratio": map_ratio,
    }  # fmt: skip
    if scene.mm_per_px is not None:
        across, down = scene.mm_per_px
        mean = (across * down) ** 0.5
        values |= {"area_mm2": area * across * down, "length_mm": length * mean, "width_mm": width * mean}
    if scene.palette is not None:
        values["off_colour"] = float(scene.palette.distance(scene.lab[mask]).mean())
    if scene.reference is not None:
        values |= _against_reference(mask, scene)
    elif (ring := surroundings(mask, others)).any():
        values["colour_difference"] = colour_difference(scene.lab[mask], scene.lab[ring])
        values["contrast"] = contrast(scene.image[mask], scene.image[ring])
    return values


def occupied(mask: np.ndarray, layout: Layout) -> dict[str, float]:
    """Which share of a defect lies in each area."""
    counts = np.bincount(layout.numbers[mask], minlength=len(layout.names))
    return {name: float(count / mask.sum()) for name, count in zip(layout.names, counts, strict=True)}


def _against_reference(mask: np.ndarray, scene: Scene) -> Values:
    text = scene.layout.area(TEXT)
    found, wanted = (foreground & ~text for foreground in scene.foregrounds)
    shift = edge_displacement(found, wanted, mask & ~text)
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


def surroundings(mask: np.ndarray, others: np.ndarray) -> np.ndarray:
    """A ring around a defect, bool (H, W), as wide as a third of a disc of its area, without other defects."""
    width = max(2.0, (mask.sum() / np.pi) ** 0.5 * 2 / 3)
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return (away > 1) & (away <= 1 + width) & ~others


def colour_difference(first: np.ndarray, second: np.ndarray) -> float:
    """CIEDE2000 (Luo, Cui, Rigg, Color Research & Application 2001) between the mean colours of two sets of CIE Lab
    pixels (n, 3) and (m, 3); 1 is just noticeable.
    """
    a, b = (pixels.astype(np.float64).mean(axis=0) for pixels in (first, second))
    return float(deltaE_ciede2000(a[None], b[None])[0])


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    """Michelson contrast in [0, 1] of the mean luminances of two sets of sRGB pixels (n, 3) in [0, 255]."""
    a, b = ((linear(pixels) @ np.array([0.2126, 0.7152, 0.0722])).mean() for pixels in (first, second))
    return float(abs(a - b) / (a + b)) if a + b > 0 else 0.0


def linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB values in [0, 255] in linear light, in [0, 1] (IEC 61966-2-1)."""
    share = np.asarray(rgb, np.float64) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def gradients(image: np.ndarray) -> np.ndarray:
    """Central differences along x and y of a picture's grey values: float32 (H, W, 2), from RGB or grey."""
    grey: np.ndarray = np.ascontiguousarray(image, np.float32)
    if grey.ndim == 3:
        grey = cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY)
    kernel = np.array([[-0.5, 0, 0.5]], np.float32)
    return np.dstack([cv2.filter2D(grey, -1, k, borderType=cv2.BORDER_REPLICATE) for k in (kernel, kernel.T)])


def sharpness_loss(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """1 - the picture's gradient energy over the reference's, within the mask; 0 where it is as sharp or sharper.

    Both are `gradients`. Of an edge as wide as a Gaussian of s px, one of t px more takes 1 - s / sqrt(s^2 + t^2).
    """
    wanted = float((reference[mask] ** 2).sum())
    return float(np.clip(1 - (image[mask] ** 2).sum() / wanted, 0, 1)) if wanted > 0 else 0.0


def drawing_likeness(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Correlation in [-1, 1] of two `gradients` within the mask; 0 where either is flat. A veil or another colour
    leaves it near 1, a part that is bent, missing or added does not.
    """
    a, b = image[mask].astype(np.float64), reference[mask].astype(np.float64)
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def blur_likeness(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """The share of a change within the mask that a Gaussian blur of the reference, of the best of a few widths,
    explains: squared differences of pictures (H, W, 3) in linear light.
    """
    unit = max(min(mask.shape) / 256, 0.4)
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    margin = round(3 * _WIDTHS[-1] * unit)
    window = slice(max(0, y - margin), y + height + margin), slice(max(0, x - margin), x + width + margin)
    seen, good = image[window], reference[window]
    near = cv2.dilate(mask[window].astype(np.uint8), np.ones((3, 3))) > 0
    guesses = [good, *(cv2.GaussianBlur(good, (0, 0), blur * unit) for blur in _WIDTHS)]
    left = [float(((seen - guess)[near] ** 2).sum()) for guess in guesses]
    return 1 - min(left) / left[0] if left[0] > 0 else 0.0


def ink_gained(image: np.ndarray, reference: np.ndarray, mask: np.ndarray, text: np.ndarray) -> float | None:
    """Of all ink that a defect moved, the share that it brought: 0 where print is missing, about 1/2 where it is
    blurred, 1 where it is smeared; None where no ink moved. Pictures (H, W, 3) in linear light.

    Bare ground has the reference's colour along the rim of the text area, ink that of the fifth which differs most.
    """
    rim = text & ~cv2.erode(text.astype(np.uint8), np.ones((3, 3)), borderValue=0).astype(bool)
    colours = reference[text] - np.median(reference[rim], axis=0)
    away = np.linalg.norm(colours, axis=1)
    ink = colours[away >= np.quantile(away, 0.8)].mean(axis=0)
    moved = (image[mask] - reference[mask]) @ ink / max(float(ink @ ink), 1e-6)
    gained, lost = moved[moved > _TRACE].sum(), -moved[moved < -_TRACE].sum()
    return float(gained / (gained + lost)) if gained + lost > 0 else None
