"""Tiles keep proportions; runs side by side keep their own thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.report import side_by_side as page
from anomalib_lite.report.heatmap import overlay
from anomalib_lite.report.side_by_side import Row, Seen, side_by_side
from anomalib_lite.report.tiles import PAPER, square_tile


@pytest.mark.parametrize(("shape", "inside"), [((20, 40), (20, 40)), ((80, 20), (40, 10)), ((10, 10), (40, 40))])
def test_an_image_fills_its_longer_side_and_is_centred(shape: tuple[int, int], inside: tuple[int, int]) -> None:
    tile = square_tile(np.zeros((*shape, 3), np.uint8), 40)
    assert tile.shape == (40, 40, 3)
    rows, columns = ((tile != PAPER).any(axis=(1, 2)), (tile != PAPER).any(axis=(0, 2)))
    assert (rows.sum(), columns.sum()) == inside
    assert abs((40 - rows.sum()) // 2 - rows.argmax()) <= 1 and abs((40 - columns.sum()) // 2 - columns.argmax()) <= 1


def test_each_map_is_coloured_on_its_own_runs_threshold() -> None:
    """Maps that lie equally far above their thresholds look alike, whatever their unit."""
    image = np.full((64, 64, 3), 90, np.uint8)
    map = np.linspace(0, 3, 64, dtype=np.float32)[None].repeat(64, 0)
    seen = [Seen(map, 3.0, 1.0, 1.0), Seen(map * 100, 90.0, 100.0, 100.0)]
    drawing = side_by_side([Row("good  0.png", image, None, seen)], ["first", "second"])
    canvas = np.asarray(drawing.axes[0].images[0].get_array())
    starts = [page._SIDE + column * (page._TILE + page._GAP) for column in (1, 2)]
    first, second = (canvas[page._HEAD : page._HEAD + page._TILE, x : x + page._TILE] for x in starts)
    assert np.array_equal(first, second)
    assert np.array_equal(first, square_tile(overlay(image, map, 1.0), page._TILE))
    words = [text.get_text() for text in drawing.axes[0].texts]
    assert "score 3.00 × threshold: NOK" in words and "score 0.90 × threshold: OK" in words
