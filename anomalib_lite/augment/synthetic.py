"""Defects drawn into OK images, to train networks and choose settings without real defects.

In the spirit of CutPaste (Li et al., CVPR 2021), DRAEM (Zavrtanik et al., ICCV 2021), with textures under Perlin masks,
and GLASS (Chen et al., ECCV 2024). Besides spots and patches, some defects follow the product: print that is out of
focus or smeared; parts that are missing, broken, bent, doubled or recoloured. Kinds are grouped into families, so that
what was trained on some can be evaluated on others. They do not imitate any real defect.

A kind takes two images of the same size, float32 (H, W, 3) in [0, 255], and a random generator; textures come from the
second image. It returns each pixel's share of the change, float32 (H, W) in [0, 1], and the changed image.
"""

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import torch

from anomalib_lite.data.images import ImageSet, to_float, to_pixels
from anomalib_lite.data.sample import NOK, OK, UNNUMBERED, Batch

Field = np.ndarray
Drawn = tuple[Field, np.ndarray]
Kind = Callable[[np.ndarray, np.ndarray, np.random.Generator], Drawn]
Kinds = Sequence[Kind] | None
VISIBLE = 6  # grey levels by which a pixel must differ to count as defective
TRIES = 4  # until a drawn defect is visible, which e.g. blurred background is not
TRIES_INSIDE = 32  # until it meets the pixels to inspect


def synthesize(
    image: np.ndarray,
    other: np.ndarray,
    rng: np.random.Generator,
    kinds: Kinds = None,
    inside: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one defect into an OK image, with textures from another, and returns it with its mask.

    image, other: uint8 (H, W, 3) of the same size. kinds: drawn from with equal probability; None: of all families. The
    mask, bool (H, W), is True where the change is visible, and empty if none can be drawn, e.g. on a flat image.
    inside: pixels that the defect must meet, bool (H, W); if none does, the image stays as it is.
    """
    kinds = KINDS if kinds is None else kinds
    source, texture_of = image.astype(np.float32), other.astype(np.float32)
    for _ in range(TRIES if inside is None else TRIES_INSIDE):
        field, changed = kinds[int(rng.integers(len(kinds)))](source, texture_of, rng)
        mixed = source + field[..., None] * (changed - source)
        defective = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
        mask = np.abs(defective.astype(np.int16) - image).max(axis=2) > VISIBLE
        if (mask if inside is None else mask & inside).any():
            break
    else:
        if inside is not None:
            return image, np.zeros_like(inside)
    # close small gaps: blurred print only changes along edges, but is one defect
    side = max(3, round(min(mask.shape) / 256 * 5) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return defective, cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0


def spot(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A dark or bright ellipse of 1 to 4 % of the image's side."""
    axes = rng.uniform(0.01, 0.035, 2) * min(image.shape[:2])
    field = _ellipse(image.shape, _anywhere(image, rng), axes, rng.uniform(0, 180))
    return _blurred(field, 1), image + _sign(rng) * rng.uniform(30, 90)


def line(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A wandering line, dark or bright."""
    width = max(1, round(rng.integers(1, 4) * min(image.shape[:2]) / 256))
    return _path(image, rng, int(rng.integers(4, 8)), 0.5, width), image + _sign(rng) * rng.uniform(25, 80)


def scratch(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A long, faint, nearly straight hairline."""
    field = _path(image, rng, int(rng.integers(3, 7)), 0.12, max(1, round(min(image.shape[:2]) / 256)))
    soft = _blurred(field, rng.uniform(0.4, 0.9))
    return soft / max(soft.max(), 1e-6), image + _sign(rng) * rng.uniform(15, 70)


def stain(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A flat film with a soft or sharp edge: slightly darker or brighter, and tinted."""
    centre, count = _anywhere(image, rng), rng.integers(5, 10)
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radii = rng.uniform(0.02, 0.09) * min(image.shape[:2]) * rng.uniform(0.6, 1.2, (count, 1))
    corners = centre + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    field: Field = np.zeros(image.shape[:2], np.float32)
    cv2.fillPoly(field, [np.rint(corners).astype(np.int32)], 1.0, cv2.LINE_AA)
    return _blurred(field, rng.uniform(0.6, 5)), image + _sign(rng) * rng.uniform(10, 35) + rng.normal(0, 6, 3) * (
        not _is_grey(image)
    )


def texture(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Smooth islands of another image's mirrored texture, slightly darker or brighter."""
    islands = _islands(image.shape[:2], rng, cells=(4, 10), share=(0.015, 0.1), soft=1)
    return islands * np.float32(rng.uniform(0.3, 0.9)), other[:, ::-1] + rng.normal(0, 30)


def patch(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A rectangle from a random place of another image."""
    shape = np.array(image.shape[:2])
    h, w = np.maximum(2, np.rint(rng.uniform(0.04, 0.23, 2) * shape)).astype(int)
    (y, x), (v, u) = rng.integers(0, shape - (h, w) + 1), rng.integers(0, shape - (h, w) + 1)
    field, changed = np.zeros(image.shape[:2], np.float32), image.copy()
    field[y : y + h, x : x + w] = 1
    changed[y : y + h, x : x + w] = other[v : v + h, u : u + w]
    return field, changed


def light(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Large soft areas that are darker or brighter by a fifth to a half."""
    islands = _islands(image.shape[:2], rng, cells=(2, 5), share=(0.1, 0.4), soft=6)
    return islands, image * (1 + _sign(rng) * rng.uniform(0.2, 0.5))


def recoloured(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """One part in another colour of the same lightness; in a grey image, in another grey."""
    field = _blurred(_part(image, rng, largest=0.06), rng.uniform(0.5, 2))
    if _is_grey(image):
        return field, image + _sign(rng) * rng.uniform(12, 60)
    lab = cv2.cvtColor(image / np.float32(255), cv2.COLOR_RGB2LAB)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(6, 40)
    shift = np.array([np.cos(angle), np.sin(angle)], np.float32) * length
    lab[..., 1:] = lab[..., 1:] * np.float32(rng.uniform(0, 1)) + shift
    return field, 255 * cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def blur(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Islands out of focus."""
    islands = _islands(image.shape[:2], rng, cells=(3, 7), share=(0.03, 0.2), soft=2)
    return islands, _blurred(image, rng.uniform(1, 3))


def blurred_print(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A box of fine structure out of focus."""
    changed = _blurred(image, rng.uniform(0.8, 4))
    return _box(image, rng), changed


def smeared_print(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A box of fine structure smeared in one direction; whatever differs from its median smears, light or dark."""
    field, (height, width) = _box(image, rng), image.shape[:2]
    length, angle = rng.uniform(0.012, 0.08) * min(height, width), rng.uniform(0, 2 * np.pi)
    strength, inside = rng.uniform(0.4, 0.95), field > 0.5
    ground = (np.median(image[inside], axis=0) if inside.any() else image.mean((0, 1))).astype(np.float32)
    ink = smeared = image - ground
    for step in np.linspace(0.1, 1, 10):
        x, y = length * step * np.cos(angle), length * step * np.sin(angle)
        shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
        moved = cv2.warpAffine(ink, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
        moved = moved * np.float32(strength * (1 - 0.7 * step))
        smeared = np.where(np.abs(moved) > np.abs(smeared), moved, smeared)
    return field, smeared + ground


def missing(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A missing part, filled from its surroundings."""
    part = cv2.dilate(_part(image, rng, largest=0.03).astype(np.uint8), np.ones((3, 3), np.uint8))
    return _blurred(part, 0.7), _inpainted(image, part, rng)


def broken(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A cut of a few pixels through the structure."""
    axes = np.array([rng.uniform(0.015, 0.05), rng.uniform(0.004, 0.012)]) * min(image.shape[:2])
    cut = _ellipse(image.shape, _on_structure(image, rng), np.maximum(axes, 1), rng.uniform(0, 180))
    return _blurred(cut, 0.6), _inpainted(image, (cut > 0).astype(np.uint8), rng)


def bent(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Structure around a point pushed aside by 1 to 4 % of the side."""
    height, width = image.shape[:2]
    centre, reach = _on_structure(image, rng), rng.uniform(0.025, 0.09) * min(height, width)
    angle, push = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.6) * reach
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    share = np.exp(-((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2) / (2 * reach**2)).astype(np.float32)
    x, y = columns - share * np.float32(push * np.cos(angle)), rows - share * np.float32(push * np.sin(angle))
    changed = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return (share > 0.02).astype(np.float32), changed


def extra(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A copy of a part of another image, moved and rotated."""
    part = _blurred(_part(other, rng, largest=0.02), 0.7)
    height, width = part.shape
    rows, columns = np.nonzero(part > 0.5)
    if not len(rows):
        return spot(image, other, rng)
    centre, target = (float(columns.mean()), float(rows.mean())), _anywhere(image, rng)
    turn = cv2.getRotationMatrix2D(centre, float(rng.uniform(0, 360)), float(rng.uniform(0.6, 1.3)))
    turn[:, 2] = turn[:, 2] + (target - centre)
    field = cv2.warpAffine(part, turn, (width, height))
    return field, cv2.warpAffine(other, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)


FAMILIES: dict[str, tuple[Kind, ...]] = {
    "surface": (spot, line, scratch, stain),
    "texture": (texture, patch),
    "light": (light, recoloured),
    "print": (blur, blurred_print, smeared_print),
    "structure": (missing, broken, bent, extra),
}
KINDS: tuple[Kind, ...] = tuple(kind for family in FAMILIES.values() for kind in family)


def _sign(rng: np.random.Generator) -> int:
    return int(rng.choice([-1, 1]))


def _is_grey(image: np.ndarray) -> bool:
    return bool(np.ptp(image, axis=2).mean() < 1)


def _anywhere(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws a point (x, y), not at the border."""
    return rng.uniform(0.05, 0.95, 2) * image.shape[1::-1]


def _on_structure(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws a point (x, y) with probability proportional to local contrast."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    edges = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    weight = np.cumsum(_blurred(edges, 3).ravel().astype(np.float64) + 1e-6)
    index = int(np.searchsorted(weight, rng.uniform(0, weight[-1])))
    y, x = divmod(min(index, weight.size - 1), image.shape[1])
    return np.array([x, y], np.float64)


def _part(image: np.ndarray, rng: np.random.Generator, largest: float) -> np.ndarray:
    """Segments a connected region of similar colour at a point with structure: bool (H, W).

    Regions larger than the share `largest` of the image are cut by an ellipse around the point.
    """
    shape = image.shape[:2]
    x, y = _on_structure(image, rng).astype(int)
    smooth = cv2.medianBlur(image.clip(0, 255).astype(np.uint8), 3)
    mask = np.zeros((shape[0] + 2, shape[1] + 2), np.uint8)
    span = (float(rng.uniform(12, 40)),) * 3
    fill = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | 255 << 8
    cv2.floodFill(smooth, mask, (int(x), int(y)), 0, span, span, fill)
    radius = np.sqrt(shape[0] * shape[1] * rng.uniform(0.1, 1) * largest / np.pi)
    axes = radius * np.array([1.0, rng.uniform(0.4, 1)])
    near = _ellipse(shape, np.array([x, y], np.float64), np.maximum(axes, 1.5), rng.uniform(0, 180))
    part = (mask[1:-1, 1:-1] > 0) & (near > 0)
    return part if part.sum() >= 9 else near > 0


def _inpainted(image: np.ndarray, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Inpaints the part (H, W) uint8 from its surroundings (Telea, 2004), with the noise of the image."""
    filled = cv2.inpaint(image.clip(0, 255).astype(np.uint8), part, 3, cv2.INPAINT_TELEA).astype(np.float32)
    noise = image - cv2.GaussianBlur(image, (0, 0), 1)
    spread = float(np.median(np.abs(noise))) * 1.4826
    return filled + rng.normal(0, spread, (*image.shape[:2], 1)).astype(np.float32)


def _box(image: np.ndarray, rng: np.random.Generator) -> Field:
    """Draws a soft box around a point with structure."""
    height, width = image.shape[:2]
    x, y = _on_structure(image, rng)
    half_width, half_height = rng.uniform(0.05, 0.22) * width, rng.uniform(0.03, 0.1) * height
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return _blurred((np.abs(columns - x) < half_width) & (np.abs(rows - y) < half_height), 3)


def _blurred(field: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs by sigma, in px of an image of 256 px."""
    return cv2.GaussianBlur(field.astype(np.float32), (0, 0), sigma * min(field.shape[:2]) / 256)


def _ellipse(shape: tuple[int, ...], centre: np.ndarray, axes: np.ndarray, angle: float) -> Field:
    field = np.zeros(shape[:2], np.float32)
    cv2.ellipse(field, (tuple(map(float, centre)), tuple(map(float, 2 * axes)), float(angle)), 1.0, -1)
    return field


def _path(image: np.ndarray, rng: np.random.Generator, count: int, wander: float, width: int) -> Field:
    """Draws a line of `count` steps of 3 to 12 % of the side, each turned by `wander` rad (one sigma) from the last."""
    headings = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, wander, count))
    steps = rng.uniform(0.03, 0.12, (count, 1)) * min(image.shape[:2])
    ways = np.cumsum(steps * np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0)
    points = _anywhere(image, rng) + np.vstack([np.zeros((1, 2)), ways])
    field = np.zeros(image.shape[:2], np.float32)
    cv2.polylines(field, [np.rint(points).astype(np.int32)], False, 1.0, width, cv2.LINE_AA)
    return field


def _islands(
    shape: tuple[int, ...], rng: np.random.Generator, cells: tuple[int, int], share: tuple[float, float], soft: float
) -> Field:
    """Islands that cover a random share of the image: a thresholded smooth random field, with soft edges."""
    count = int(rng.integers(*cells))
    noise = rng.standard_normal((count, count)).astype(np.float32)
    field = cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return _blurred(field > np.quantile(field, 1 - rng.uniform(*share)), soft)


def drawn_batches(
    images: ImageSet,
    indices: Sequence[int],
    count: int,
    rng: np.random.Generator,
    size: int = 16,
    kinds: Kinds = None,
    region: torch.Tensor | None = None,
) -> Iterator[Batch]:
    """Yields the images at `indices` unchanged, then `count` copies with one drawn defect and its mask each.

    `size` is that of the batches; `kinds` as in `synthesize`. A copy into which no defect can be drawn that meets the
    pixels of `Batch.counted(region)` stays an OK image.
    """
    order = [*indices, *(indices[k % len(indices)] for k in range(count))]
    for start in range(0, len(order), size):
        part = order[start : start + size]
        batch = images[part]
        pixels = to_pixels(batch.image)
        textures = to_pixels(images[rng.choice(indices, len(part)).tolist()].image)
        counted = batch.counted(region)
        for k in range(max(0, len(indices) - start), len(part)):
            inside = None if counted is None else counted[k, 0].numpy()
            pixels[k], mask = synthesize(pixels[k], textures[k], rng, kinds, inside)
            batch.mask[k, 0] = torch.from_numpy(mask)
            batch.label[k] = NOK if mask.any() else OK
        batch.image, batch.index = to_float(pixels), torch.full_like(batch.index, UNNUMBERED)
        yield batch
