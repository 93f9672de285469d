from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.augment.synthetic import KINDS, VISIBLE, synthesize


def textured(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(60, 200, (*size, 3)).astype(np.uint8)


def test_the_mask_is_where_the_image_visibly_changed() -> None:
    image, other = textured(0), textured(1)
    for seed in range(40):
        defective, mask = synthesize(image, other, np.random.default_rng(seed))
        change = np.abs(defective.astype(int) - image).max(axis=2)
        assert defective.dtype == np.uint8 and defective.shape == image.shape
        assert (mask == (change > VISIBLE)).all()


def test_the_same_seed_draws_the_same_defect_and_input_stays() -> None:
    image, other = textured(0), textured(1)
    before = image.copy(), other.copy()
    first = synthesize(image, other, np.random.default_rng(5))
    second = synthesize(image, other, np.random.default_rng(5))
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()
    assert (image == before[0]).all() and (other == before[1]).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_changes_a_part_of_the_image(kind) -> None:
    image, other = textured(2).astype(np.float32), textured(3).astype(np.float32)
    for seed in range(10):
        field, changed = kind(image, other, np.random.default_rng(seed))
        assert field.shape == image.shape[:2] and changed.shape == image.shape
        assert field.min() >= 0 and field.max() <= 1 + 1e-6
        assert 0 < (field > 0.5 * field.max()).mean() < 0.6
