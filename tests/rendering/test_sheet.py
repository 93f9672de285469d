"""Rendered panels and the truth about where their products lie."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from anomalib_lite.errors import UserError
from anomalib_lite.rendering.raster import image_seed
from anomalib_lite.rendering.sheet import read_truth, render_sheet, write_sheets
from anomalib_lite.settings.data import SheetConfig

TINY = SheetConfig(width=240, height=160)
SHEET = SheetConfig(width=880, height=660)


def test_products_lie_where_their_corners_say_and_apart_from_each_other():
    sheet = render_sheet(SHEET, 0)
    assert sheet.image.shape == (660, 880, 3) and len(sheet.products) == 8
    covered = np.zeros((660, 880), np.uint8)
    for product in sheet.products:
        covered += cv2.fillPoly(np.zeros_like(covered), [np.round(product.corners).astype(np.int32)], 1)
        assert product.corners.min() > 0 and (product.corners < (880, 660)).all()
        sides = np.linalg.norm(np.diff(product.corners, axis=0), axis=1)
        assert sides == pytest.approx(SHEET.product_size, rel=0.02)
        assert abs(product.angle) <= 3
        # The bright pixels' centre lies where it lies on a product: on its axis, a little above its middle.
        square = np.float32([[0, 0], [100, 0], [100, 100], [0, 100]])
        to_unit = cv2.getPerspectiveTransform(product.corners.astype(np.float32), square)
        rows, columns = np.nonzero(cv2.warpPerspective(sheet.image, to_unit, (100, 100)).max(-1) > 90)
        assert columns.mean() == pytest.approx(50, abs=2) and rows.mean() == pytest.approx(52, abs=6)
        assert rows.min() > 5 and columns.min() > 0.5 and columns.max() < 99
    assert covered.max() == 1


def test_a_panel_depends_on_its_seed_alone_and_seeds_differ_in_light():
    again, *sheets = (render_sheet(TINY, seed).image for seed in (0, *range(6)))
    assert np.array_equal(again, sheets[0]) and not np.array_equal(sheets[0], sheets[1])
    means = [image.mean() for image in sheets]
    assert max(means) / min(means) > 1.1


def test_the_share_of_defective_products_and_their_masks():
    good, bad = render_sheet(replace(TINY, nok_share=0), 1), render_sheet(replace(TINY, nok_share=1), 1)
    assert not good.mask.any() and all(p.defect is None for p in good.products)
    assert all(p.defect and p.severity is not None for p in bad.products)
    for product in bad.products:
        left, top = np.floor(product.corners.min(0)).astype(int)
        right, bottom = np.ceil(product.corners.max(0)).astype(int)
        assert bad.mask[top:bottom, left:right].any()


def test_a_folder_of_panels_tells_where_every_product_lies(tmp_path):
    config = replace(TINY, nok_share=0.5)
    folder = write_sheets(tmp_path / "sheets", 2, config)
    truth = read_truth(folder / "truth.json")
    assert list(truth) == ["panels/panel_000.png", "panels/panel_001.png"]
    for number, (name, placed) in enumerate(truth.items()):
        expected = render_sheet(config, image_seed(0, "panel", number))
        assert np.array_equal(cv2.imread(str(folder / name))[..., ::-1], expected.image)
        for read, drawn in zip(placed, expected.products, strict=True):
            assert (read.corners == drawn.corners).all()
            assert (read.angle, read.defect, read.severity) == (drawn.angle, drawn.defect, drawn.severity)


def test_products_too_small_to_see_are_refused():
    with pytest.raises(UserError, match="32 px"):
        SheetConfig(width=100, height=100)
