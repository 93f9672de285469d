import cv2
import numpy as np
import pytest

from anomalib_lite.defects.reference import (
    Reference,
    change,
    find_pose,
    fit_palette,
    fit_reference,
    lay_over,
    likeness,
    relit,
    to_lab,
)
from anomalib_lite.errors import UserError
from anomalib_lite.registration.template import cut
from tests.defects.conftest import perfect, photograph


@pytest.fixture(scope="module")
def reference(good) -> Reference:
    return fit_reference(good, perfect())


@pytest.mark.parametrize("motion", ["translation", "affine"])
def test_a_known_shift_is_found_and_what_is_carried_over_lies_on_the_product(motion):
    shift = np.float32([[1, 0, 3], [0, 1, -2]])
    moved = cv2.warpAffine(perfect(), shift, (128, 96), borderMode=cv2.BORDER_REPLICATE)
    pose = find_pose(moved, perfect(), motion)
    assert motion == "affine" or np.allclose(pose, shift, atol=0.1)
    mark = np.zeros((96, 128), np.uint8)
    mark[30:40, 60:70] = 1
    carried = lay_over(mark, pose, nearest=True)
    assert abs(np.argwhere(carried).mean(axis=0) - [32.5, 67.5]).max() < 0.6
    assert likeness(cut(moved, pose, (96, 128))[8:-8, 8:-8], perfect()[8:-8, 8:-8]) > 0.99


def test_alignment_never_makes_it_worse():
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3)).astype(np.uint8)
    assert likeness(cut(noise, find_pose(noise, perfect()), (96, 128)), perfect()) >= likeness(noise, perfect())
    assert (find_pose(perfect(), perfect(), "none") == [[1, 0, 0], [0, 1, 0]]).all()
    with pytest.raises(UserError, match="alignment must be one of"):
        find_pose(perfect(), perfect(), "twist")


def test_the_light_is_matched_whatever_the_defect():
    picture = np.clip(perfect() * np.array([0.8, 0.9, 0.7]) + [12, 3, 20], 0, 255)
    picture[10:30, 50:80] = 255
    valid = (picture < 255).any(axis=2)
    matched = relit(picture.astype(np.uint8), perfect(), valid)
    assert np.abs(matched - picture)[valid].max() < 3


def test_a_good_picture_changes_little_and_a_stain_much(reference):
    fresh = photograph(99)
    stained = fresh.copy()
    stained[30:40, 40:52] = (60, 110, 60)
    found = []
    for picture in (fresh, stained):
        pose = find_pose(picture, reference.image)
        matched = relit(picture, lay_over(reference.image, pose))
        found.append(change(picture, matched, lay_over(reference.precision, pose)))
    assert (found[0] > reference.rare).mean() < 0.04
    assert np.median(found[1][31:39, 41:51]) > 3 * reference.rare
    assert 0.5 < reference.usual < reference.rare and reference.fixed and reference.alike > 0.95


def test_one_image_alone_is_a_reference_but_textures_have_no_fixed_look():
    assert fit_reference([perfect()]).alike == pytest.approx(1)
    noise = np.random.default_rng(0).integers(0, 255, (8, 48, 48, 3)).astype(np.uint8)
    assert not fit_reference(noise).fixed
    with pytest.raises(UserError, match="OK images"):
        fit_reference([])


def test_the_products_own_colours_are_not_foreign_and_others_are(good):
    palette = fit_palette(np.stack(good))
    gold, card = np.array([205, 160, 90]), np.array([28, 28, 32])
    own = to_lab(np.array([[gold, card, (gold + card) / 2]], np.float32))
    other = to_lab(np.array([[[60, 110, 200], [60, 140, 60], [90, 90, 90]]], np.float32))
    assert palette.distance(own).max() < 2 and palette.distance(other).min() > 3
