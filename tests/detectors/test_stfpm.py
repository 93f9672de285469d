"""STFPM: the paper's map, a teacher that never changes, weights in the loss, and one path through saving."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from anomalib_lite.backbones import Backbone
from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import OK, Batch, Sample
from anomalib_lite.detectors.residual import ResidualModel, SelectedResidualModel
from anomalib_lite.detectors.statistics import Whitening
from anomalib_lite.detectors.stfpm import STFPM
from tests.detectors import small
from tests.made import write_image

SIZE = (32, 48)
MODES = ["paper", "whitened", "gaussian", "full"]


class Net(nn.Module):
    """Two levels of stride 4 and 8, with batch normalisation and dropout, which tell training from evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.Dropout(0.1))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(image)
        return [first, self.second(first)]


def backbone(weights: str = "trained") -> Backbone:
    return Backbone(Net(), [0.5] * 3, [0.25] * 3)


def detector(mode: str, cache_mb: float = 100, seed: int = 0) -> STFPM:
    torch.manual_seed(seed)
    residual = SelectedResidualModel({"levels": ResidualModel([[0], [1]])}, "levels")
    return STFPM(
        backbone,
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        whitening=partial(Whitening, 0.01) if mode in ("whitened", "full") else None,
        gaussian=residual if mode in ("gaussian", "full") else None,
        cache_mb=cache_mb,
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("images")
    return ImageSet([Sample(write_image(folder / f"{i}.png", i), OK) for i in range(12)], SIZE)


def loss(model: STFPM, batch: Batch) -> float:
    return model.training_step(batch).item()


def test_the_papers_map_is_one_minus_the_cosine_level_by_level(images: ImageSet):
    """Oracle: numpy. Levels are multiplied, as a geometric mean; sums are means."""
    model, batch = detector("paper").eval(), images[[0, 1]]
    with torch.no_grad():
        teacher, student = model.teacher(batch.image), model.student(batch.image)
        fine = model.anomaly_map(batch.image)
    levels = []
    for t, s in zip(teacher, student, strict=True):
        t, s = t.double().numpy(), s.double().numpy()
        lengths = np.linalg.norm(t, axis=1) * np.linalg.norm(s, axis=1)
        levels.append(1 - (t * s).sum(1) / lengths)
    found = model.distances(teacher, student)
    for own, expected in zip(found, levels, strict=True):
        np.testing.assert_allclose(own[:, 0].detach().numpy(), expected, atol=1e-6)
    resized = torch.nn.functional.interpolate(torch.from_numpy(levels[1])[:, None], scale_factor=2, mode="bilinear")
    np.testing.assert_allclose(fine[:, 0].numpy(), np.sqrt(levels[0] * resized[:, 0].numpy()), atol=1e-6)
    model.fusion = "sum"
    with torch.no_grad():
        summed = model.anomaly_map(batch.image)[:, 0].numpy()
    np.testing.assert_allclose(summed, (levels[0] + resized[:, 0].numpy()) / 2, atol=1e-6)


def test_the_papers_loss_is_the_mean_of_that_map_summed_over_the_levels(images: ImageSet):
    model, batch = detector("paper").eval(), images[[0, 1, 2]]
    maps = model.distances(model.teacher(batch.image), model.student(batch.image))
    assert loss(model, batch) == pytest.approx(sum(m.mean().item() for m in maps), rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_map_and_score_have_their_shapes_and_signs(images: ImageSet, mode: str):
    model = small.fit(detector(mode), images, epochs=1)
    map, score = small.predict(model, images[[0, 1, 2]])
    assert map.shape == (3, 1, *SIZE) and map.dtype == torch.float32 and (map >= 0).all()
    assert score.shape == (3,) and torch.equal(score, map.flatten(1).amax(1))


@pytest.mark.parametrize("mode", MODES)
def test_the_teacher_never_changes_and_never_trains(images: ImageSet, mode: str):
    model = detector(mode)
    before = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    student = {k: v.clone() for k, v in model.student.state_dict().items()}
    modes: set[bool] = set()
    for module in model.teacher.modules():
        module.register_forward_hook(lambda module, *_: modes.add(module.training))
    small.fit(model, images, epochs=2)
    assert modes == {False}
    assert all(torch.equal(v, before[k]) for k, v in model.teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    assert not all(torch.equal(v, student[k]) for k, v in model.student.state_dict().items())


def test_the_student_trains_in_training_mode(images: ImageSet):
    model, modes = detector("full"), set()
    original = model.training_step
    model.training_step = lambda *a: (modes.add(all(m.training for m in model.student.modules())), original(*a))[1]
    small.fit(model, images, epochs=2)
    assert modes == {True}


@pytest.mark.parametrize("mode", ["paper", "full"])
def test_training_lowers_the_loss(images: ImageSet, mode: str):
    model = detector(mode)
    model.prepare(loader(images, 4))
    whole = images[list(range(12))]
    model.eval()
    before = loss(model, whole)
    small.fit(model, images, epochs=5)
    assert loss(model, whole) < 0.8 * before


@pytest.mark.parametrize("mode", ["paper", "full"])
def test_a_weight_counts_like_copies(images: ImageSet, mode: str):
    """In evaluation mode, since copies would also shift the batch's statistics."""
    model = detector(mode)
    model.prepare(loader(images, 4))
    model.eval()

    def weighted(indices: list[int], weights: list[float]) -> float:
        batch = images[indices]
        batch.weight = torch.tensor(weights)
        return loss(model, batch)

    copies = weighted([0, 0, 0, 1, 2], [1.0] * 5)
    assert weighted([0, 1, 2], [3, 1, 1]) == pytest.approx(copies, rel=1e-5)
    assert weighted([0, 1, 2], [0.75, 0.25, 0.25]) == pytest.approx(copies, rel=1e-5)  # only the ratio counts
    assert abs(weighted([0, 1, 2], [1, 1, 1]) / copies - 1) > 1e-4
    assert weighted([0, 5], [1, 0]) == pytest.approx(weighted([0], [1]), rel=1e-5)


def test_kept_features_train_the_same_student(images: ImageSet):
    kept, fresh = (small.fit(detector("full", cache_mb), images, epochs=2) for cache_mb in (100, 0))
    for (name, own), other in zip(kept.student.named_parameters(), fresh.student.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_saved_predicts_the_same_to_the_bit(images: ImageSet, mode: str, tmp_path: Path):
    model, batch = small.fit(detector(mode), images, epochs=2), images[[0, 3, 5]]
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    fresh = detector(mode, seed=7)
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    for own, other in zip(small.predict(model, batch), small.predict(fresh, batch), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("mode", MODES)
def test_what_was_trained_and_prepared_again_is_the_whole_detector(images: ImageSet, mode: str):
    """Runs that differ only in what comes after the training share `trained_state`: nothing else may be learned."""
    model, batch = small.fit(detector(mode), images, epochs=2), images[[0, 3, 5]]
    fresh = detector(mode)
    fresh.prepare(loader(images, 4))
    fresh.load_state_dict(model.trained_state(), strict=False)
    small.model(fresh).calibrate(loader(images, 4))
    for own, other in zip(small.predict(model, batch), small.predict(fresh, batch), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
