"""Registration against poses that are known because the pictures were made with them."""

import cv2
import numpy as np
import pytest

from anomalib_lite.registration.matching import Match, local_contrast
from anomalib_lite.registration.template import align, between_centres, corners_of, correlation, cut


@pytest.fixture(scope="module")
def texture():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (400, 400)).astype(np.uint8), (0, 0), 3)
    return cv2.normalize(image, None, 20, 230, cv2.NORM_MINMAX)


def pose(dx: float, dy: float, angle: float, stretch: float = 1.0) -> np.ndarray:
    turn = np.deg2rad(angle)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag([stretch, 1])
    return np.column_stack([linear, (100 + dx, 110 + dy)])


def test_the_pose_of_a_match_turns_about_the_template_s_centre():
    corners = corners_of(Match(50, 60, 90, 2, 1).pose((10, 20)), (10, 20))
    # clockwise by a quarter, twice as large: the upper left corner goes to the upper right
    assert corners == pytest.approx(np.array([[60, 40], [60, 80], [40, 80], [40, 40]]))


def test_whole_pixel_poses_cut_the_very_pixels_and_conventions_agree(texture):
    crop = cut(texture, np.array([[1, 0, 30.0], [0, 1, 40.0]]), (50, 60))
    assert np.array_equal(crop, texture[40:90, 30:90])
    # Doubling the size maps the outer corner to itself and the first pixel's middle to half a pixel.
    assert between_centres(np.array([[2.0, 0, 0], [0, 2, 0]])) == pytest.approx(np.array([[2, 0, 0.5], [0, 2, 0.5]]))


def test_correlation_is_pearson_s():
    a, b = np.random.default_rng(0).normal(size=(2, 20, 30))
    assert correlation(a, a + b) == pytest.approx(np.corrcoef(a.ravel(), (a + b).ravel())[0, 1])
    assert correlation(a, np.ones_like(a)) == 0


@pytest.mark.parametrize(
    ("motion", "truth"),
    [
        ("translation", pose(1.3, -0.8, 0)),
        ("euclidean", pose(1.3, -0.8, 1.5)),
        ("affine", pose(-1.1, 0.6, -1.2, 1.02)),
    ],
)
def test_alignment_recovers_the_pose_under_another_light(texture, motion, truth):
    shape = (160, 180)
    template = cut(texture, truth, shape)
    light = np.linspace(0.7, 1.1, 400)[:, None] + np.linspace(-0.1, 0.1, 400)[None]
    panel = (texture * light).clip(0, 255).astype(np.uint8)
    found = align(local_contrast(panel, 6), local_contrast(template, 6), pose(0, 0, 0), motion)
    assert np.abs(corners_of(found, shape) - corners_of(truth, shape)).max() < 0.12


def test_where_nothing_can_be_aligned_the_pose_stays(texture):
    start = pose(0, 0, 0)
    flat = np.zeros((160, 180), np.float32)
    assert np.array_equal(align(texture.astype(np.float32), flat, start, "affine"), start)
    outside = np.array([[1, 0, 5000.0], [0, 1, 5000.0]])
    assert np.array_equal(align(texture.astype(np.float32), flat + 1, outside, "affine"), outside)
