"""Coarse-to-fine search against exhaustive search, suppression against known overlaps."""

import cv2
import numpy as np
import pytest

from anomalib_lite.registration.matching import Match, Pyramid, find_matches, local_contrast, suppress
from anomalib_lite.settings.data import SegmentOptions

STRAIGHT = SegmentOptions(max_angle=0)


def scene(seed: int, places: list[tuple[int, int]], side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A textured template, and a noisy panel of 400 x 600 that holds it with the upper left corner at each place."""
    rng = np.random.default_rng(seed)
    blobs = cv2.GaussianBlur(rng.integers(0, 256, (side, side)).astype(np.uint8), (0, 0), 3)
    template = cv2.normalize(blobs, None, 0, 255, cv2.NORM_MINMAX)
    panel = rng.integers(90, 110, (400, 600)).astype(np.uint8)
    for x, y in places:
        panel[y : y + side, x : x + side] = template
    return panel, template


def test_it_finds_the_places_that_exhaustive_search_finds():
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


def test_local_contrast_ignores_brightness_and_gain():
    """Brightness as a factor, as light has it; dark noise stays small."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.uniform(60, 120, (200, 200)).astype(np.float32), (0, 0), 4)
    image = cv2.normalize(image, None, 60, 120, cv2.NORM_MINMAX)
    slope = np.linspace(0.8, 1.6, 200, dtype=np.float32)
    plain = local_contrast(image.astype(np.uint8), 8)
    lit = local_contrast((image * slope).astype(np.uint8), 8)
    assert np.corrcoef(plain.ravel(), lit.ravel())[0, 1] > 0.98
    noise = local_contrast(rng.integers(8, 11, (200, 200)).astype(np.uint8), 8)
    stripes = local_contrast(np.tile(np.repeat([20, 200], 5).astype(np.uint8), (200, 20)), 8)
    assert noise.std() < 0.3 and stripes.std() > 0.8
