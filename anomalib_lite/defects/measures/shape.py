"""How large a defect is: area, length and width."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from skimage.measure import label
from skimage.morphology import skeletonize

_STEPS = ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 2**0.5), (1, -1, 2**0.5))


def pieces(mask: np.ndarray) -> int:
    """Number of connected parts (8 neighbours)."""
    return int(label(mask, connectivity=2).max())


def length_and_width(mask: np.ndarray) -> tuple[float, float]:
    """Of a mask (H, W), in px: along the longest way through its skeleton, and the mean across it.

    The way's ends are prolonged to the mask's outline; the width is the area divided by the length. Of several pieces
    the lengths add up. A straight stroke of L x W px gives L and W; a disc gives its diameter and pi / 4 of it.
    """
    numbers = label(mask, connectivity=2)
    length = sum(
        _length(np.pad(numbers[window] == number, 1))
        for number, window in enumerate(ndimage.find_objects(numbers), start=1)
    )
    return float(length), float(mask.sum() / length) if length else 0.0


def _length(piece: np.ndarray) -> float:
    bones = skeletonize(piece)
    depth = ndimage.distance_transform_edt(piece) - 0.5  # from a pixel's middle to the outline
    count = int(bones.sum())
    index = np.full(piece.shape, -1)
    index[bones] = np.arange(count)
    starts, ends, weights = [], [], []
    for down, right, step in _STEPS:
        neighbours = np.roll(index, (-down, -right), axis=(0, 1))  # the margin keeps what wraps around empty
        linked = (index >= 0) & (neighbours >= 0)
        starts.append(index[linked])
        ends.append(neighbours[linked])
        weights.append(np.full(int(linked.sum()), step))
    edges = (np.concatenate(weights), (np.concatenate(starts), np.concatenate(ends)))
    graph = coo_matrix(edges, shape=(count, count)).tocsr()
    # The farthest point from anywhere is one end of the longest way (exact for trees, which skeletons nearly are).
    first = int(np.argmax(dijkstra(graph, directed=False, indices=0)))
    ways = dijkstra(graph, directed=False, indices=first)
    last = int(np.argmax(ways))
    at_ends = depth[bones]
    return float(ways[last] + at_ends[first] + at_ends[last])
