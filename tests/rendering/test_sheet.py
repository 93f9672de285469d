"""Rendered panels and the truth about where their products lie."""

from __future__ import annotations

import csv
from dataclasses import replace

import cv2
import numpy as np
import pytest

from anomalib_lite.errors import UserError
from anomalib_lite.rendering.sheet import SheetConfig, render_sheet
from anomalib_lite.rendering.sheets import write_sheets

TINY = SheetConfig(width=240, height=160)
SHEET = SheetConfig(width=880, height=660)


@pytest.fixture(scope="module")
def sheets():
    return [render_sheet(SHEET, seed) for seed in range(2)]


def test_products_lie_inside_the_panel_apart_from_each_other(sheets):
    for sheet in sheets:
        assert sheet.image.shape == (660, 880, 3) and len(sheet.products) == 8
        covered = np.zeros((660, 880), np.uint8)
        for product in sheet.products:
            one = cv2.fillPoly(np.zeros_like(covered), [np.round(product.corners).astype(np.int32)], 1)
            covered += one
            assert product.corners.min() > 0 and (product.corners < (880, 660)).all()
            sides = np.linalg.norm(np.diff(product.corners, axis=0), axis=1)
            assert sides == pytest.approx(SHEET.product_size, rel=0.02)
            assert abs(product.angle) <= 3
        assert covered.max() == 1


def test_the_corners_enclose_the_drawn_product(sheets):
    """The bright pixels' centre lies where it lies on a product: on its axis, a little above its middle."""
    for product in sheets[0].products:
        to_unit = cv2.getPerspectiveTransform(
            product.corners.astype(np.float32), np.float32([[0, 0], [100, 0], [100, 100], [0, 100]])
        )
        upright = cv2.warpPerspective(sheets[0].image, to_unit, (100, 100)).max(-1)
        rows, columns = np.nonzero(upright > 90)
        assert columns.mean() == pytest.approx(50, abs=2) and rows.mean() == pytest.approx(52, abs=6)
        assert rows.min() > 5 and columns.min() > 0.5 and columns.max() < 99


def test_a_panel_depends_on_its_seed_alone():
    first, again, other = (render_sheet(TINY, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image) and not np.array_equal(first.image, other.image)


def test_the_share_of_defective_products_and_their_masks():
    good, bad = render_sheet(replace(TINY, nok_share=0), 1), render_sheet(replace(TINY, nok_share=1), 1)
    assert not good.mask.any() and all(p.defect is None for p in good.products)
    assert all(p.defect and p.severity is not None for p in bad.products)
    for product in bad.products:
        left, top = np.floor(product.corners.min(0)).astype(int)
        right, bottom = np.ceil(product.corners.max(0)).astype(int)
        assert bad.mask[top:bottom, left:right].any()


def test_light_changes_between_panels():
    means = [render_sheet(TINY, seed).image.mean() for seed in range(6)]
    assert max(means) / min(means) > 1.1


def test_a_folder_of_panels_tells_where_every_product_lies(tmp_path):
    folder = write_sheets(tmp_path / "sheets", 2, TINY)
    with open(folder / "truth.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 16 and rows[0]["panel"] == "panels/panel_000.png"
    assert cv2.imread(str(folder / rows[-1]["panel"])).shape == (160, 240, 3)
    expected = render_sheet(TINY, (0, *_words(1))).products[3]
    assert [float(rows[11][f"{a}{i}"]) for i in range(4) for a in "xy"] == pytest.approx(
        expected.corners.ravel().tolist(), abs=0.001
    )
    before = (folder / "truth.csv").stat().st_mtime_ns
    assert write_sheets(folder, 5, TINY) == folder and (folder / "truth.csv").stat().st_mtime_ns == before


def _words(number: int) -> tuple[int, ...]:
    from anomalib_lite.rendering.streams import image_seed

    return image_seed(0, "panel", number)[1:]


def test_products_too_small_to_see_are_refused():
    with pytest.raises(UserError, match="32 pixels"):
        SheetConfig(width=100, height=100)
