"""Alignment: known motions are found again, and where nothing can be found the template stays."""

import cv2
import numpy as np
import pytest

from anomalib_lite.registration import template as room
from anomalib_lite.registration.cropping import Match, local_contrast
from anomalib_lite.registration.template import Alignment, align, between_centres, corners_of, cut, global_motion

SIZE = (128, 160)
REST = np.s_[12:-12, 12:-12]  # away from the border


def picture(
    seed: int = 0, warp: np.ndarray | None = None, size: tuple[int, int] = SIZE, sigma: float = 5, border: int = 40
) -> np.ndarray:
    """Smooth blobs, grey (H, W) in [0, 1]; with `warp`, what they show at each pixel's warped place.

    There is something to see beyond the border, as in a photograph.
    """
    noise = np.random.default_rng(seed).standard_normal([side + 2 * border for side in size]).astype(np.float32)
    blobs = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), sigma), None, 0, 1, cv2.NORM_MINMAX)
    place = np.float32([[1, 0, border], [0, 1, border]])
    if warp is not None:
        place = (place @ np.vstack([warp, [0, 0, 1]])).astype(np.float32)
    return cv2.warpAffine(blobs, place, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def coloured(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey, 0.8 * grey, 0.5 * grey + 0.2], axis=-1).astype(np.float32)


def turn(degrees: float, shift: tuple[float, float]) -> np.ndarray:
    warp = cv2.getRotationMatrix2D((SIZE[1] / 2, SIZE[0] / 2), degrees, 1.0)
    warp[:, 2] += shift
    return warp.astype(np.float32)


@pytest.mark.parametrize(
    ("motion", "warp"),
    [("translation", turn(0, (9.3, -6.6))), ("euclidean", turn(3, (4, -2))), ("affine", turn(-2, (2.5, 3)) * 1.01)],
)
def test_a_known_motion_is_found(motion: str, warp: np.ndarray):
    found = global_motion(picture(warp=warp), picture(), motion)
    assert np.abs(corners_of(between_centres(found) - warp, SIZE)).max() < 0.35


def test_a_pose_found_on_reduced_pictures_holds_for_the_large_ones():
    """The middle of a large pixel is not the middle of the pixels that it was made of."""
    warp = cv2.getRotationMatrix2D((450, 450), 3, 1.0)
    warp[:, 2] += (6, -4)
    image, template = (picture(0, motion, (900, 900), 12, 60) for motion in (warp, None))
    found = global_motion(image, template, "euclidean")
    assert np.abs(corners_of(between_centres(found) - warp, (900, 900))).max() < 0.1


def test_the_template_comes_over_the_image_and_what_it_does_not_show_is_unseen():
    image, template = coloured(picture(warp=turn(2, (8, 0)))), coloured(picture())
    aligned, seen = Alignment(reach=0, light=False)(image, template)
    assert np.abs(aligned - image)[seen].mean() < 0.01 < np.abs(template - image).mean() / 5
    assert not seen[:, -6:].any() and seen[40:90, 40:100].all()


def test_a_part_that_lies_off_alone_is_found_and_a_small_defect_moves_nothing():
    template = picture()
    shifts = np.zeros((*SIZE, 2), np.float32)
    shifts[:, 80:] = 3, -2
    found = room.local_shifts(room.shifted(template, cv2.blur(shifts, (31, 31))), template, reach=4, window=25)
    assert np.abs(found[30:-30, 110:-20] - (3, -2)).mean() < 0.5
    assert np.abs(found[30:-30, 15:50]).mean() < 0.3
    image = template.copy()
    image[60:66, 60:66] = 1
    aligned, _ = Alignment()(coloured(image), coloured(template))
    assert np.abs(aligned - coloured(template))[REST].max() < 0.05


FLAT = np.full(SIZE, 0.5, np.float32)


@pytest.mark.parametrize(
    ("image", "template"), [(picture(1), picture()), (FLAT, picture()), (picture(), FLAT), (FLAT, FLAT)]
)
def test_inputs_stay_as_they_are_and_unlike_or_flat_pictures_give_a_finite_answer(image, template):
    """OpenCV's phase correlation writes into pictures of some sizes."""
    before = [p.copy() for p in (image, template)]
    pose = global_motion(image, template, "affine")
    aligned, seen = Alignment()(coloured(image), coloured(template))
    assert all((a == b).all() for a, b in zip(before, (image, template), strict=True))
    assert np.isfinite(aligned).all() and aligned.min() >= 0 and seen.mean() > 0.4
    if image is FLAT or template is FLAT:
        assert (pose == np.eye(2, 3)).all() and seen.all()


def test_light_is_taken_over_for_each_colour():
    template = coloured(picture())
    image = template * [0.7, 0.9, 0.6] + [0.1, 0, 0.2]
    seen = np.ones(SIZE, bool)
    assert np.abs(room.match_light(image, template, seen) - image).max() < 1e-3
    assert (room.match_light(image, template, ~seen) == template).all()


@pytest.fixture(scope="module")
def texture():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (400, 400)).astype(np.uint8), (0, 0), 3)
    return cv2.normalize(image, None, 20, 230, cv2.NORM_MINMAX)


def pose(dx: float, dy: float, angle: float, stretch: float = 1.0) -> np.ndarray:
    turn = np.deg2rad(angle)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag([stretch, 1])
    return np.column_stack([linear, (100 + dx, 110 + dy)])


def test_poses_turn_about_the_template_s_centre_cut_the_very_pixels_and_agree_with_opencv(texture):
    # clockwise by a quarter, twice as large: the upper left corner goes to the upper right
    corners = corners_of(Match(50, 60, 90, 2, 1).pose((10, 20)), (10, 20))
    assert corners == pytest.approx(np.array([[60, 40], [60, 80], [40, 80], [40, 40]]))
    crop = cut(texture, np.array([[1, 0, 30.0], [0, 1, 40.0]]), (50, 60))
    assert np.array_equal(crop, texture[40:90, 30:90])
    # Doubling the size maps the outer corner to itself and the first pixel's middle to half a pixel.
    assert between_centres(np.array([[2.0, 0, 0], [0, 2, 0]])) == pytest.approx(np.array([[2, 0, 0.5], [0, 2, 0.5]]))


@pytest.mark.parametrize(
    ("motion", "truth"),
    [("translation", pose(1.3, -0.8, 0)), ("euclidean", pose(1.3, -0.8, 1.5)), ("affine", pose(-1.1, 0.6, -1.2, 1.02))],
)
def test_alignment_recovers_the_pose_under_another_light(texture, motion, truth):
    shape = (160, 180)
    light = np.linspace(0.7, 1.1, 400)[:, None] + np.linspace(-0.1, 0.1, 400)[None]
    panel, template = (texture * light).clip(0, 255).astype(np.uint8), cut(texture, truth, shape)
    found = align(local_contrast(panel, 6), local_contrast(template, 6), pose(0, 0, 0), motion)
    assert np.abs(corners_of(found - truth, shape)).max() < 0.12


def test_where_nothing_can_be_aligned_the_pose_stays(texture):
    for start in (pose(0, 0, 0), np.array([[1, 0, 5000.0], [0, 1, 5000.0]])):  # flat; outside
        found = align(texture.astype(np.float32), np.ones((160, 180), np.float32), start, "affine")
        assert np.array_equal(found, start)


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
