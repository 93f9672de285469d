"""Products found in rendered panels, whose truth is known, and on real boards; the search against exhaustive search."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from anomalib_lite.errors import UserError
from anomalib_lite.registration.cropping import Match, Pyramid, crop, draw_overview, find_matches, segment, suppress
from anomalib_lite.rendering.product import render_sheet, render_template
from anomalib_lite.settings.data import SegmentOptions, SheetConfig

WIDE = SegmentOptions(max_objects=16)  # more than there are, so that false ones would show
CONFIG = SheetConfig(width=880, height=660)
STRAIGHT = SegmentOptions(max_angle=0)


@pytest.fixture(scope="module")
def template():
    return render_template(CONFIG.product_size)


@pytest.fixture(scope="module")
def sheets():
    return [render_sheet(CONFIG, seed) for seed in range(2)]


def corner_errors(sheet, found):
    """The distance of each true corner to that of the nearest product found, (8, 4)."""
    places, true = (np.array([product.corners for product in part]) for part in (found, sheet.products))
    nearest = np.linalg.norm(places.mean(1) - true.mean(1)[:, None], axis=2).argmin(1)
    return np.linalg.norm(places[nearest] - true, axis=2)


def test_every_product_is_found_exactly_and_nothing_else_row_by_row(sheets, template):
    """Crops lie over the template pixel by pixel, and the overview outlines each product."""
    grey = cv2.cvtColor(template, cv2.COLOR_RGB2GRAY).astype(np.float32)
    errors = []
    for sheet in sheets:
        found = segment(sheet.image, template, WIDE)
        assert len(found) == 8
        errors.append(corner_errors(sheet, found))
        centres = np.array([f.corners.mean(0) for f in found]).reshape(2, 4, 2)
        assert (np.diff(centres[..., 0], axis=1) > 0).all() and (centres[1, :, 1] > centres[0, :, 1].max()).all()
        for product in (crop(sheet.image, f) for f in found):
            shift, _ = cv2.phaseCorrelate(grey, cv2.cvtColor(product, cv2.COLOR_RGB2GRAY).astype(np.float32))
            assert product.shape == template.shape and np.abs(shift).max() < 0.5
    assert np.median(errors) < 0.5 and np.max(errors) < 2
    picture = draw_overview(sheets[1].image, found)
    green = (picture[..., 1] > 200) & (picture[..., 0] < 150)
    assert picture.shape == sheets[1].image.shape and green.sum() > 8 * 4 * 100
    assert max(draw_overview(np.zeros((3000, 4000, 3), np.uint8), []).shape) == 1600
    three = segment(sheets[1].image, template, replace(WIDE, max_objects=3))
    assert len(three) == 3 and min(f.score for f in three) >= sorted(f.score for f in found)[-4]


@pytest.mark.parametrize(("tone", "share"), [(230, 0.25), (5, 0.25), (120, 0.4)])
def test_partly_covered_products_are_still_found_in_place(sheets, template, tone, share):
    """A label, a shadow, a hand: each costs a product the share it hides, not more."""
    image = sheets[1].image.copy()
    for product in sheets[1].products:
        (left, top), (right, bottom) = product.corners.min(0).astype(int), product.corners.max(0).astype(int)
        image[top:bottom, left : int(left + share * (right - left))] = tone
    found = segment(image, template, WIDE)
    errors = corner_errors(sheets[1], found)
    assert len(found) == 8 and errors.max() < 6
    assert all(0.4 < f.score < 1 - share / 2 for f in found)


def test_a_panel_without_products_gives_none(sheets, template):
    """The correlation of a flat window is zero by zero, which rounding turns into anything up to one."""
    bare = sheets[0].image[300:330].repeat(22, axis=0)  # a strip of card
    noise = np.random.default_rng(0).integers(0, 256, (500, 700, 3)).astype(np.uint8)
    assert segment(bare, template, WIDE) == [] == segment(noise, template, WIDE)
    for value in (0, 127, 255):
        assert segment(np.full((500, 700, 3), value, np.uint8), template, replace(WIDE, min_score=0.2)) == []


@pytest.mark.parametrize("ground", [20, 200])
@pytest.mark.parametrize("margin", [0, 8])
def test_a_template_cut_at_the_very_edge_of_a_plain_product_serves_as_well(ground, margin):
    """The step from product to ground is the strongest line of a plain product, and such a template lacks it."""
    rng = np.random.default_rng(0)
    plain = np.full((120, 120, 3), (120, 110, 90), np.uint8)
    cv2.circle(plain, (40, 60), 20, (160, 60, 40), -1)
    cv2.rectangle(plain, (72, 36), (102, 84), (50, 150, 160), -1)
    panel = np.full((500, 800, 3), ground, np.int64)
    places = [(40, 40), (420, 50), (80, 300), (600, 330)]
    for x, y in places:
        panel[y : y + 120, x : x + 120] = plain
    panel = (panel + rng.normal(0, 4, panel.shape)).clip(0, 255).astype(np.uint8)
    found = segment(panel, panel[40 - margin : 160 + margin, 40 - margin : 160 + margin], WIDE)
    centres = sorted(tuple(f.corners.mean(0)) for f in found)
    assert np.array(centres) == pytest.approx(np.array(sorted(places)) + 60, abs=0.5)
    assert min(f.score for f in found) > 0.8


def test_products_in_any_direction_and_of_another_size(sheets, template):
    config = replace(CONFIG, angle=180, fill=0.66)
    sheet = render_sheet(config, 0)
    options = replace(WIDE, max_angle=180, angle_step=4)
    found = segment(sheet.image, render_template(config.product_size), options)
    assert len(found) == 8 and np.median(corner_errors(sheet, found)) < 0.6
    assert sorted(f.angle for f in found) == pytest.approx(sorted(p.angle for p in sheet.products), abs=0.5)
    smaller = cv2.resize(template, None, fx=0.9, fy=0.9, interpolation=cv2.INTER_AREA)
    found = segment(sheets[0].image, smaller, replace(WIDE, min_scale=0.9, max_scale=1.2))
    assert [f.scale for f in found] == pytest.approx([1 / 0.9] * 8, rel=0.02)


def test_upright_boxes_are_copied_without_resampling_and_filled_up_at_the_panel_s_edge(sheets, template):
    image = sheets[0].image
    for found in segment(image, template, replace(WIDE, motion="none", max_angle=0)):
        x, y, width, height = (round(v) for v in found.box)
        assert found.box == pytest.approx((x, y, *template.shape[1::-1]))
        assert np.array_equal(crop(image, found), image[y : y + height, x : x + width])
    left = int(min(product.corners.min(0)[0] for product in sheets[0].products)) + 3
    image = np.ascontiguousarray(image[:, left:])
    found = segment(image, template, WIDE)
    assert len(found) == 8 and min(f.corners.min() for f in found) < 0
    assert all(crop(image, f).shape == template.shape for f in found)


def test_a_template_that_is_too_large_or_without_contrast_is_refused(sheets, template):
    with pytest.raises(UserError, match=r"180 x 180.*larger than the panel \(150 x 660\)"):
        segment(sheets[0].image[:, :150], template, WIDE)
    with pytest.raises(UserError, match="contrast"):
        segment(sheets[0].image, np.full((50, 50, 3), 7, np.uint8), WIDE)
    with pytest.raises(UserError, match=r"max_scale \(1\) must be at least min_scale \(1.2\)"):
        SegmentOptions(min_scale=1.2)


def distinct_part(board, side=200):
    """The part of a board with the most corners: blank or evenly striped parts fit in many places."""
    corners = cv2.cornerMinEigenVal(board, 5)
    corners = np.minimum(corners, np.quantile(corners, 0.98))
    half = side // 2
    density = cv2.blur(corners, (side, side))[half : 641 - half : 20, half : 641 - half : 20]
    row, column = np.unravel_index(density.argmax(), density.shape)
    return 20 * int(column), 20 * int(row)


@pytest.mark.datasets
def test_real_boards_are_found_by_a_part_of_their_template(datasets_root):
    """DeepPCB: 95 of 100 tested boards; the pairs themselves are up to 8 pixels apart, the boards 640 wide."""
    tested = sorted((datasets_root / "deeppcb").glob("PCBData/*/*/*_test.jpg"))[::4][:100]
    right = 0
    for path in tested:
        panel, board = cv2.imread(str(path)), cv2.imread(str(path).replace("_test.jpg", "_temp.jpg"))
        x, y = distinct_part(cv2.cvtColor(board, cv2.COLOR_BGR2GRAY))
        found = segment(panel, board[y : y + 200, x : x + 200], SegmentOptions(max_objects=1))
        right += bool(found) and np.abs(found[0].corners.mean(0) - (x + 100, y + 100)).max() <= 10
    assert len(tested) == 100 and right >= 95


def scene(seed: int, places: list[tuple[int, int]], side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A textured template, and a noisy panel of 400 x 600 that holds it with the upper left corner at each place."""
    rng = np.random.default_rng(seed)
    blobs = cv2.GaussianBlur(rng.integers(0, 256, (side, side)).astype(np.uint8), (0, 0), 3)
    template = cv2.normalize(blobs, None, 0, 255, cv2.NORM_MINMAX)
    panel = rng.integers(90, 110, (400, 600)).astype(np.uint8)
    for x, y in places:
        panel[y : y + side, x : x + side] = template
    return panel, template


def test_the_search_finds_the_places_that_exhaustive_search_finds():
    places = [(0, 20), (300, 41), (504, 304), (151, 222)]  # the first and the third at the panel's border
    panel, template = scene(0, places)
    found = find_matches(Pyramid(panel, template), STRAIGHT)
    response = cv2.matchTemplate(panel, template, cv2.TM_CCOEFF_NORMED)
    assert all(response[y, x] > 0.99 for x, y in places)
    assert sorted((m.x - 48, m.y - 48) for m in found) == [pytest.approx(p, abs=0.6) for p in sorted(places)]
    assert min(m.score for m in found) > 0.9


def test_positions_are_exact_to_a_fraction_of_a_pixel():
    panel, template = scene(1, [(200, 150)])
    shift = np.float32([[1, 0, 0.4], [0, 1, -0.3]])
    panel = cv2.warpAffine(panel, shift, panel.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    best = find_matches(Pyramid(panel, template), STRAIGHT)[0]
    assert (best.x, best.y) == pytest.approx((248.4, 197.7), abs=0.15)


def test_turned_and_scaled_products_are_found_with_their_angle_and_scale():
    panel, template = scene(2, [])
    turn = cv2.getRotationMatrix2D((47.5, 47.5), -30, 1.2)
    turn[:, 2] += (250, 160)
    cv2.warpAffine(template, turn, panel.shape[::-1], panel, borderMode=cv2.BORDER_TRANSPARENT)
    options = SegmentOptions(max_angle=45, angle_step=5, min_scale=0.9, max_scale=1.2)
    best = find_matches(Pyramid(panel, template), options)[0]
    assert (best.angle, best.scale) == (30.0, pytest.approx(1.2))
    assert (best.x, best.y) == pytest.approx((298, 208), abs=1.5)


def test_suppression_keeps_the_best_of_what_overlaps():
    matches = [Match(x, 0, 0, 1, score) for x, score in ((0, 0.7), (4, 0.9), (9, 0.8), (30, 0.5))]
    # 5 / 15 of the boxes at 4 and 9 is common to both
    assert [m.x for m in suppress(matches, (10, 10), 0.3)] == [4, 30]
    assert [m.x for m in suppress(matches, (10, 10), 0.34)] == [4, 9, 30]
    assert suppress([], (10, 10), 0.3) == []
