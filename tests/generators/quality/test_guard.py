"""The guard drops damaged images and keeps recoloured ones, and says what it is worth."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.errors import UserError
from anomalib_lite.generators.quality.guard import fit_guard, photographed_anew, put_out_of_place
from anomalib_lite.generators.quality.structure import edge_overlap
from tests.generators.quality.test_structure import product
from tests.generators.tiny import recoloured, shuffled


@pytest.fixture(scope="module")
def real() -> list[np.ndarray]:
    return [product(seed, 64) for seed in range(8)]


@pytest.fixture(scope="module")
def guard(real):
    return fit_guard(real, 0.01, seed=0)


def test_damaged_images_are_dropped_and_recoloured_ones_kept(real, guard):
    fresh = [product(100 + seed, 64) for seed in range(6)]
    rng = np.random.default_rng(0)
    for image in fresh:
        assert guard.keeps(edge_overlap(image, image))
        assert guard.keeps(edge_overlap(recoloured(image, rng, 0.3), image))
        assert not guard.keeps(edge_overlap(shuffled(recoloured(image, rng), rng), image))
    assert type(guard.keeps(edge_overlap(fresh[0], fresh[1]))) is bool  # it is written into a table
    assert 0.7 < guard.threshold < 1 and guard.caught > 0.8


def test_the_threshold_loses_about_the_share_that_was_asked_for(real):
    strict, loose = fit_guard(real, 0.2, seed=0), fit_guard(real, 0.01, seed=0)
    assert strict.threshold > loose.threshold and strict.caught >= loose.caught
    rng = np.random.default_rng(7)
    fresh = [edge_overlap(image, photographed_anew(image, rng)) for image in real for _ in range(12)]
    assert np.mean([not strict.keeps(overlap) for overlap in fresh]) == pytest.approx(0.2, abs=0.1)
    assert np.mean([not loose.keeps(overlap) for overlap in fresh]) < 0.06


def test_the_same_seed_gives_the_same_guard_and_one_image_is_enough(real, guard):
    assert fit_guard(real, 0.01, seed=0) == guard
    assert 0.5 < fit_guard(real[:1], 0.01, seed=0).threshold < 1


def test_a_product_without_structure_is_not_guarded_and_the_guard_says_so():
    flat = [np.full((64, 64, 3), 90 + i, np.uint8) for i in range(4)]
    assert fit_guard(flat, 0.01, seed=0).caught == 0


def test_copies_are_images_of_the_same_size_and_parts_change_places(real):
    image, rng = real[0][:60, :63], np.random.default_rng(0)
    copy, damaged = photographed_anew(image, rng), put_out_of_place(image, rng)
    assert copy.shape == damaged.shape == image.shape and copy.dtype == damaged.dtype == np.uint8
    changed = np.any(damaged != image, axis=2).mean()
    assert 0.1 < changed <= 2 / 9 + 0.01
    assert np.array_equal(np.sort(damaged.reshape(-1)), np.sort(image.reshape(-1)))


@pytest.mark.parametrize(
    ("images", "quantile", "message"), [([], 0.01, "there are none"), ([1], 1.5, "between 0 and 1")]
)
def test_what_cannot_be_learned_from_is_explained(images, quantile, message):
    with pytest.raises(UserError, match=message):
        fit_guard([product() for _ in images], quantile, seed=0)
