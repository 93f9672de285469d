"""Features are computed once where they fit, and are the same either way."""

from pathlib import Path

import pytest
import torch

from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import OK, UNNUMBERED, Sample
from anomalib_lite.detectors.distillation import FeatureCache
from tests.made import write_image

COUNT, SIZE = 7, (24, 32)
MEGABYTES = COUNT * (3 * 24 * 32 + 6 * 12 * 16) * 4 / 2**20  # of the two levels below


class Teacher:
    """Two levels, of the image's size and of half of it; counts the images that it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.seen += len(image)
        half = torch.nn.functional.avg_pool2d(image, 2)
        return [image * 2, torch.cat([half, -half], dim=1)]


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return ImageSet([Sample(write_image(tmp_path / f"{i}.png", i), OK) for i in range(COUNT)], SIZE)


def cached(images: ImageSet, limit_mb: float) -> tuple[FeatureCache, Teacher, list[list[torch.Tensor]]]:
    teacher = Teacher()
    cache = FeatureCache(teacher, limit_mb)
    return cache, teacher, list(cache.fill(loader(images, 3), "features"))


def test_filling_yields_the_features_of_every_batch(images: ImageSet):
    _, teacher, yielded = cached(images, 100)
    assert [len(features[0]) for features in yielded] == [3, 3, 1] and teacher.seen == COUNT
    assert torch.equal(yielded[1][0], images[[3, 4, 5]].image * 2)


@pytest.mark.parametrize("limit_mb", [100, 1.01 * MEGABYTES, 0.99 * MEGABYTES, 0])
def test_features_come_in_any_order_and_are_computed_again_only_where_they_do_not_fit(
    images: ImageSet, limit_mb: float
):
    cache, teacher, _ = cached(images, limit_mb)
    before = teacher.seen
    for indices in ([5, 0, 6], [2], [6, 5, 4, 3, 2, 1, 0]):
        batch = images[indices]
        for found, expected in zip(cache.get(batch), Teacher()(batch.image), strict=True):
            assert torch.equal(found, expected)
    assert teacher.seen - before == (0 if limit_mb > MEGABYTES else 11)


def test_an_image_that_is_no_samples_own_is_never_taken_from_memory(images: ImageSet):
    cache, _, _ = cached(images, 100)
    batch = images[[1, 2, 3]]
    plain, flipped = batch.image.clone(), batch.image.flip(-1)
    batch.image = torch.stack([plain[0], flipped[1], flipped[2]])
    batch.index[1], batch.index[2] = UNNUMBERED, len(images)  # drawn, and beyond those that were kept
    assert torch.equal(cache.get(batch)[0], batch.image * 2)


def test_numbered_images_are_not_computed_again_beside_others(images: ImageSet):
    cache, teacher, _ = cached(images, 100)
    batch, before = images[[1, 2]], teacher.seen
    batch.index[1] = UNNUMBERED
    cache.get(batch)
    assert teacher.seen == before + 1


def test_features_computed_in_lower_precision_join_the_kept_ones(images: ImageSet):
    """Under autocast, those of augmented images come as bfloat16."""
    cache, teacher, _ = cached(images, 100)
    cache.compute = lambda image: [feature.bfloat16() for feature in teacher(image)]
    batch = images[[1, 2]]
    batch.index[1] = UNNUMBERED
    found = cache.get(batch)[0]
    assert found.dtype == torch.float32 and torch.equal(found[0], batch.image[0] * 2)
    torch.testing.assert_close(found[1], batch.image[1] * 2, atol=1e-2, rtol=1e-2)


def test_an_interrupted_filling_is_not_used(images: ImageSet):
    teacher = Teacher()
    cache = FeatureCache(teacher, 100)
    next(cache.fill(loader(images, 3), "features"))
    cache.get(images[[6]])
    assert teacher.seen == 4


def test_cleared_memory_is_not_used(images: ImageSet):
    cache, teacher, _ = cached(images, 100)
    cache.clear()
    cache.get(images[[0]])
    assert teacher.seen == COUNT + 1


def test_kept_features_need_no_gradient_and_survive_changes_to_what_was_given(images: ImageSet):
    cache, _, _ = cached(images, 100)
    given = cache.get(images[[0]])
    expected = given[0].clone()
    given[0].zero_()
    assert torch.equal(cache.get(images[[0]])[0], expected) and not expected.requires_grad
