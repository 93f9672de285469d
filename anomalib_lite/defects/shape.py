"""How large a defect is, and how far the product's edges lie from where they belong."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import dijkstra
from skimage.graph import pixel_graph
from skimage.measure import label
from skimage.morphology import skeletonize


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height in px of the smallest box around a mask that is not empty."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, width, height


def pieces(mask: np.ndarray) -> int:
    """Number of connected parts (8 neighbours)."""
    return int(label(mask, connectivity=2).max())


def length_and_width(mask: np.ndarray) -> tuple[float, float]:
    """Of a mask (H, W), in px: along the longest way through its skeleton, and the mean across it.

    The way's ends are prolonged to the mask's outline; the width is the area divided by the length. Of several pieces
    the lengths add up. A straight stroke of L x W px gives L and W; a disc gives its diameter and pi / 4 of it.
    """
    numbers = label(mask, connectivity=2)
    windows = enumerate(ndimage.find_objects(numbers), start=1)
    length = sum(_length(np.pad(numbers[window] == number, 1)) for number, window in windows)
    return float(length), float(mask.sum() / length) if length else 0.0


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
    reach = float(np.hypot(*box_of(near)[2:]))
    return min(reach, max(_farthest(*edges, near), _farthest(*edges[::-1], near)))


def outline(mask: np.ndarray) -> np.ndarray:
    """A mask's outermost pixels, bool (H, W); the picture's border is none."""
    padded = np.pad(mask, 1, mode="edge").astype(np.uint8)
    inner = cv2.erode(padded, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return mask & ~inner[1:-1, 1:-1].astype(bool)


def _farthest(edge: np.ndarray, other: np.ndarray, near: np.ndarray) -> float:
    here = edge & near
    if not here.any():
        return 0.0
    if not other.any():
        return float(np.hypot(*near.shape))
    away = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(np.quantile(away[here], 0.9))
