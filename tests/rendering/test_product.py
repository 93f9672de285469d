"""The renderer's pictures and the truth it tells about them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomalib_lite.errors import UserError
from anomalib_lite.rendering.camera import Camera
from anomalib_lite.rendering.flaws import DEFECTS
from anomalib_lite.rendering.pose import Pose
from anomalib_lite.rendering.product import Conditions, draw_conditions, render_product, render_template
from anomalib_lite.rendering.surface import Wear

SIZE = 128


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)).astype(bool)


def sharp(seed: int) -> Conditions:
    """Drawn conditions, and a camera that spreads nothing beyond a pixel: no blur, glow or compression."""
    drawn = draw_conditions(seed)
    camera = Camera(blur=0, glow=0, quality=0, shot=drawn.camera.shot, read=drawn.camera.read)
    return Conditions(drawn.pose, drawn.light, camera, drawn.wear)


def test_a_seed_gives_the_same_pixels_and_another_seed_gives_others():
    first, again, other = (render_product(SIZE, seed, "scratch", 0.5) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (SIZE, SIZE, 3) and first.image.dtype == np.uint8 and first.mask.dtype == bool


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_changes_the_masked_pixels_and_no_others(defect):
    for seed in (1, 2):
        good = render_product(SIZE, seed, conditions=sharp(seed)).image.astype(int)
        bad = render_product(SIZE, seed, defect, 0.6, sharp(seed))
        change = np.abs(bad.image.astype(int) - good).max(-1)
        # Light and noise are the same in both pictures, so what is left outside is the fringe of a pixel that
        # stays below the bar of visibility.
        assert change[~grown(bad.mask, 2)].max() <= 12
        assert change[~grown(bad.mask, 2)].mean() < 0.1
        assert np.median(change[bad.mask]) > 10


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_camera_hardly_shows_a_defect_outside_its_mask(defect):
    good = render_product(SIZE, 5).image.astype(int)
    bad = render_product(SIZE, 5, defect, 0.6)
    change = np.abs(bad.image.astype(int) - good).max(-1)
    assert change[bad.mask].mean() > 8 * change[~grown(bad.mask, 4)].mean()


@pytest.mark.parametrize("defect", DEFECTS)
def test_severity_grows_with_the_defect(defect):
    severities = np.linspace(0, 1, 6)
    for seed in (11, 12):
        conditions = sharp(seed)
        good = render_product(SIZE, seed, conditions=conditions).image.astype(float)
        damage = []
        for severity in severities:
            bad = render_product(SIZE, seed, defect, float(severity), conditions)
            assert bad.mask.any() and bad.severity == severity
            damage.append(np.abs(bad.image - good)[bad.mask].sum())
        ranks = np.argsort(np.argsort(damage))
        assert np.corrcoef(ranks, severities)[0, 1] > 0.75 and damage[-1] > 1.5 * damage[0]


def test_a_good_product_has_an_empty_mask_and_no_severity():
    product = render_product(SIZE, 1)
    assert not product.mask.any() and product.defect is None and product.severity is None


def test_print_defects_lie_on_the_word_and_broken_spikes_on_the_structure():
    for seed in range(4):
        word = render_product(SIZE, seed, "print_missing", 0.7)
        spike = render_product(SIZE, seed, "structure_missing", 0.7)
        assert (word.mask & grown(word.text, 1)).sum() > 0.9 * word.mask.sum()
        assert (spike.mask & grown(spike.structure, 1)).sum() > 0.8 * spike.mask.sum()


def test_masks_follow_the_pose():
    """A product shifted by whole pixels has the mask shifted by as much."""
    still, moved = (Conditions(Pose(dx=shift / SIZE), wear=Wear(0, 0, 0, 0, 0)) for shift in (0, 7))
    here = render_product(SIZE, 8, "structure_bent", 0.8, still).mask
    there = render_product(SIZE, 8, "structure_bent", 0.8, moved).mask
    assert (np.roll(here, 7, axis=1) ^ there).sum() < 0.1 * here.sum()


def test_the_template_is_straight_and_symmetric():
    template = render_template(SIZE)
    mirrored = template.structure[:, ::-1]
    assert (template.structure & mirrored).sum() > 0.93 * template.structure.sum()
    assert not (template.text & template.structure).any()
    assert (template.edges & template.structure).any() and not template.mask.any()


def test_bad_input_is_named():
    with pytest.raises(UserError, match=r"print_blurred.*wrong_color"):
        render_product(SIZE, 0, "rust")
    with pytest.raises(UserError, match="between 0 and 1"):
        render_product(SIZE, 0, "stain", 1.5)
