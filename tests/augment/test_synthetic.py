import cv2
import numpy as np
import pytest

from anomalib_lite.augment.synthetic import FAMILIES, KINDS, VISIBLE, missing, recoloured, spot, synthesize


def textured(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (*size, 3)).astype(np.uint8)


def test_the_mask_is_where_the_image_visibly_changed_and_the_seed_decides() -> None:
    image, other = textured(0), textured(1)
    before = image.copy(), other.copy()
    for seed in range(40):
        defective, mask = synthesize(image, other, np.random.default_rng(seed))
        visible = np.abs(defective.astype(int) - image).max(axis=2) > VISIBLE
        assert defective.dtype == np.uint8 and defective.shape == image.shape
        assert mask[visible].all()
        assert not mask[cv2.dilate(visible.astype(np.uint8), np.ones((7, 7), np.uint8)) == 0].any()
    again = synthesize(image, other, np.random.default_rng(39))
    assert (again[0] == defective).all() and (again[1] == mask).all()
    assert (image == before[0]).all() and (other == before[1]).all()


def test_a_defect_meets_what_is_inspected_or_none_is_drawn() -> None:
    image, other = textured(0), textured(1)
    corner, met = np.zeros(image.shape[:2], bool), []
    corner[:24, :24] = True
    for seed in range(20):
        defective, mask = synthesize(image, other, np.random.default_rng(seed), [spot, recoloured], corner)
        assert mask[corner].any() or ((defective == image).all() and not mask.any())
        met.append(mask.any())
    assert any(met) and not all(met)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_changes_a_part_of_the_image(kind) -> None:
    image, other = textured(2).astype(np.float32), textured(3).astype(np.float32)
    for seed in range(10):
        field, changed = kind(image, other, np.random.default_rng(seed))
        assert field.shape == image.shape[:2] and changed.shape == image.shape
        assert field.min() >= 0 and field.max() <= 1 + 1e-6
        assert 0 < (field > 0.5 * field.max()).mean() < 0.6


def product() -> np.ndarray:
    """Bright letters on a dark ground."""
    image = np.full((128, 128, 3), (24, 22, 28), np.uint8)
    cv2.putText(image, "LUMEN", (8, 72), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (200, 170, 110), 3, cv2.LINE_AA)
    return image


@pytest.mark.parametrize("family", ["print", "structure"])
def test_what_follows_the_product_lies_on_it(family: str) -> None:
    image = product()
    around = cv2.dilate((image != image[0, 0]).any(axis=2).astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    kinds = [kind for kind in FAMILIES[family] if kind.__name__ not in ("extra", "blur")]
    for seed in range(20):
        mask = synthesize(image, image, np.random.default_rng(seed), kinds)[1]
        assert mask.any() and mask[around].sum() >= 0.8 * mask.sum()


def test_a_missing_part_is_taken_by_what_surrounds_it() -> None:
    image = product()
    for seed in range(10):
        defective, mask = synthesize(image, image, np.random.default_rng(seed), [missing])
        assert np.abs(defective.astype(int) - image)[mask].mean() > 25


def test_a_grey_image_stays_grey() -> None:
    grey = np.repeat(textured(0)[..., :1], 3, axis=2)
    for seed in range(60):
        defective = synthesize(grey, grey, np.random.default_rng(seed))[0]
        assert np.ptp(defective, axis=2).max() <= 100  # noise of a texture is coloured
        if seed < 30:
            defective = synthesize(grey, grey, np.random.default_rng(seed), FAMILIES["light"])[0]
            assert np.ptp(defective, axis=2).max() == 0


def test_a_flat_image_may_stay_as_it_is() -> None:
    flat = np.full((64, 64, 3), 128, np.uint8)
    for kind in KINDS:
        defective, mask = synthesize(flat, flat, np.random.default_rng(0), [kind])
        assert defective.shape == flat.shape and mask.dtype == bool
