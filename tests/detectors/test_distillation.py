"""What all students keep, whatever they learn; STFPM as its paper has it; features that are computed once."""

from functools import partial

import numpy as np
import pytest
import torch

from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import UNNUMBERED
from anomalib_lite.detectors.distillation import Distillation, FeatureCache
from anomalib_lite.detectors.residual import ResidualModel, SelectedResidualModel
from anomalib_lite.detectors.reverse_distillation import ReverseDistillation
from anomalib_lite.detectors.statistics import Whitening
from anomalib_lite.detectors.stfpm import STFPM
from tests.detectors import small

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=5e-3, betas=(0.5, 0.999))
STUDENTS = {
    "stfpm_plain": partial(STFPM, small.backbone, SGD),
    "stfpm": partial(STFPM, small.backbone, SGD, whitening=partial(Whitening, 0.01)),
    "reverse_distillation": partial(ReverseDistillation, small.backbone, ADAM, blocks=1),
}


def student(name: str, cache_mb: float = 100) -> Distillation:
    torch.manual_seed(0)
    gaussian = None if name.endswith("plain") else SelectedResidualModel({"levels": ResidualModel([[0], [1]])})
    return STUDENTS[name](gaussian=gaussian, cache_mb=cache_mb)


@pytest.mark.parametrize("name", STUDENTS)
def test_the_student_alone_learns_lowers_its_loss_and_marks_what_is_new(images: ImageSet, name: str):
    """The teacher, which computes anew in each step, neither changes nor trains."""
    model, whole, teacher, learning = student(name, cache_mb=0), images[list(range(12))], set(), set()
    model.prepare(loader(images, 4))
    before, state = model.eval().training_step(whole), {k: v.clone() for k, v in model.state_dict().items()}
    for module in model.teacher.modules():
        module.register_forward_hook(lambda module, *_: teacher.add(module.training))
    learners = [part for name in model.learners if (part := getattr(model, name)) is not None]
    step = model.training_step
    model.training_step = lambda batch: (
        learning.update(m.training for part in learners for m in part.modules()) or step(batch)
    )
    small.fit(model.train(), images, epochs=12)
    assert teacher == {False} and learning == {True}
    assert all(torch.equal(v, state[f"teacher.{k}"]) for k, v in model.teacher.state_dict().items())
    assert not any(torch.equal(v, state[k]) for k, v in model.trained_state().items() if k.endswith("weight"))
    model.eval()
    assert step(whole) < 0.8 * before
    assert small.predict(model, small.marked(images)).score.diff() > 0


@pytest.mark.parametrize("name", STUDENTS)
def test_a_weight_counts_like_copies(images: ImageSet, name: str):
    """In evaluation mode, since copies would also shift the batch's statistics."""
    model = student(name)
    model.prepare(loader(images, 4))
    model.eval()

    def weighted(indices: list[int], weights: list[float]) -> float:
        batch = images[indices]
        batch.weight = torch.tensor(weights)
        return model.training_step(batch).item()

    copies = weighted([0, 0, 0, 1, 2], [1.0] * 5)
    assert weighted([0, 1, 2], [3, 1, 1]) == pytest.approx(copies, rel=1e-5)
    assert weighted([0, 1, 2], [0.75, 0.25, 0.25]) == pytest.approx(copies, rel=1e-5)  # only the ratio counts
    assert abs(weighted([0, 1, 2], [1, 1, 1]) / copies - 1) > 1e-5
    assert weighted([0, 5], [1, 0]) == pytest.approx(weighted([0], [1]), rel=1e-5)


@pytest.mark.parametrize("name", STUDENTS)
def test_kept_features_train_the_same_student_which_is_all_that_is_learned(images: ImageSet, name: str):
    """Runs that differ only in what comes after the training share `trained_state`."""
    kept, fresh, again = (student(name, cache_mb) for cache_mb in (100, 0, 100))
    for model in (kept, fresh):
        small.fit(model, images, epochs=2)
    for key, value in kept.trained_state().items():
        torch.testing.assert_close(value, fresh.trained_state()[key], rtol=1e-3, atol=1e-4, msg=key)
    again.prepare(loader(images, 4))
    again.load_state_dict(kept.trained_state(), strict=False)
    small.model(again).calibrate(loader(images, 4))
    for own, other in zip(*(small.predict(m, images[[0, 3, 5]]) for m in (kept, again)), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_stfpms_map_is_one_minus_the_cosine_and_its_loss_the_mean_of_that(images: ImageSet):
    """Levels are multiplied in the map, as a geometric mean; or summed, as a mean. The loss adds them up."""
    torch.manual_seed(0)
    model, batch = STFPM(small.backbone, SGD).eval(), images[[0, 1]]
    with torch.no_grad():
        teacher, student = model.teacher(batch.image), model.student(batch.image)
    levels = []
    for t, s in zip(teacher, student, strict=True):
        t, s = t.double().numpy(), s.double().numpy()
        levels.append(1 - (t * s).sum(1) / (np.linalg.norm(t, axis=1) * np.linalg.norm(s, axis=1)))
    coarse = torch.nn.functional.interpolate(torch.from_numpy(levels[1])[:, None], scale_factor=2, mode="bilinear")
    coarse = coarse[:, 0].numpy()
    for fusion, expected in (("product", np.sqrt(levels[0] * coarse)), ("sum", (levels[0] + coarse) / 2)):
        model.fusion = fusion
        with torch.no_grad():
            np.testing.assert_allclose(model.anomaly_map(batch.image)[:, 0], expected, atol=1e-6)
    assert model.training_step(batch).item() == pytest.approx(levels[0].mean() + levels[1].mean(), rel=1e-5)


COUNT, (HEIGHT, WIDTH) = 12, small.SIZE
MEGABYTES = COUNT * (3 * HEIGHT * WIDTH + 6 * HEIGHT * WIDTH / 4) * 4 / 2**20  # of the two levels below


class Teacher:
    """Two levels, of the image's size and of half of it; counts the images that it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.seen += len(image)
        half = torch.nn.functional.avg_pool2d(image, 2)
        return [image * 2, torch.cat([half, -half], dim=1)]


def cached(images: ImageSet, limit_mb: float = 100) -> tuple[FeatureCache, Teacher]:
    teacher = Teacher()
    cache = FeatureCache(teacher, limit_mb)
    filled = [features[0] for features in cache.fill(loader(images, 5), "features")]
    assert torch.equal(torch.cat(filled), images[list(range(COUNT))].image * 2) and teacher.seen == COUNT
    return cache, teacher


@pytest.mark.parametrize("limit_mb", [100, 1.01 * MEGABYTES, 0.99 * MEGABYTES, 0])
def test_features_come_in_any_order_and_are_computed_again_only_where_they_do_not_fit(
    images: ImageSet, limit_mb: float
):
    cache, teacher = cached(images, limit_mb)
    for indices in ([5, 0, 6], [2], [6, 5, 4, 3, 2, 1, 0]):
        batch = images[indices]
        for found, expected in zip(cache.get(batch), Teacher()(batch.image), strict=True):
            assert torch.equal(found, expected) and not found.requires_grad
            found.zero_()  # what is given is a copy
    assert teacher.seen - COUNT == (0 if limit_mb > MEGABYTES else 11)


def test_an_image_that_is_no_samples_own_is_never_taken_from_memory(images: ImageSet):
    """It alone is computed, in bfloat16 under autocast, and joins the kept ones."""
    cache, teacher = cached(images)
    cache.compute = lambda image: [feature.bfloat16() for feature in teacher(image)]
    batch = images[[1, 2, 3]]
    batch.image[1:] = batch.image[1:].flip(-1)
    batch.index[1], batch.index[2] = UNNUMBERED, len(images)  # drawn, and beyond those that were kept
    found = cache.get(batch)[0]
    assert found.dtype == torch.float32 and torch.equal(found[0], batch.image[0] * 2) and teacher.seen == COUNT + 2
    torch.testing.assert_close(found[1:], batch.image[1:] * 2, atol=1e-2, rtol=1e-2)


def test_neither_cleared_memory_nor_an_interrupted_filling_is_used(images: ImageSet):
    cache, teacher = cached(images)
    cache.clear()
    next(cache.fill(loader(images, 5), "features"))
    cache.get(images[[0]])
    assert teacher.seen == COUNT + 5 + 1
