"""EfficientAD: the grids, the distilled teacher, the penalty and the maps' scale; test_parity.py holds the loss."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.detectors.efficientad import PDN, EfficientAD, hardest
from anomalib_lite.detectors.levels import grid_of
from tests.detectors import small
from tests.made import write_image


def detector(**more: object) -> EfficientAD:
    torch.manual_seed(0)
    optimizer = partial(torch.optim.Adam, lr=2e-3)
    return EfficientAD(small.backbone, optimizer, levels=None, width=4, inner=4, folds=4, **more)


@pytest.fixture(scope="module")
def fitted(images: ImageSet) -> EfficientAD:
    return small.fit(detector(), images, epochs=15)


def test_few_images_are_shown_as_often_as_a_whole_training_needs():
    """Five epochs of 16 images, five steps, found hardly anything."""
    lengths = [(d.epochs, d.steps) for d in (detector(), detector(epochs=2), detector(epochs=2, steps=9))]
    assert lengths == [(0, 260), (2, 0), (2, 9)]


def test_features_are_standardised_images_weighted_and_the_hardest_differences_count(images: ImageSet):
    assert hardest(torch.arange(2000.0).view(2, 10, 100), 0.998).tolist() == [998.5, 1998.5]
    model, batch = detector(hard=0.9).eval(), images[[1, 2]]
    model.prepare(loader(images, 4))
    with torch.no_grad():
        known = model._standardised(model.features(images[list(range(12))].image)[0])
    assert known.mean((0, 2, 3)).abs().max() < 1e-4 and (known.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4

    def loss(*weights: float) -> float:
        model.step.zero_()  # so that it draws the same
        batch.weight = torch.tensor(weights)
        return model.training_step(batch).item()

    assert loss(1, 3) == pytest.approx((loss(1, 0) + 3 * loss(0, 1)) / 4, rel=1e-5)


@pytest.mark.parametrize("stride", [4, 8])
def test_a_position_sees_what_lies_around_its_centre(stride: int):
    """On the backbone's grid, whatever the image's size; the 33 px that a position sees lie evenly around its cell."""
    for size in ((64, 96), (50, 71)):
        image = torch.zeros(1, 3, *size, requires_grad=True)
        answer = PDN(5, 2, stride)(image)
        assert answer.shape == (1, 5, *grid_of(image, stride))
        row, column = answer.shape[2] // 2, answer.shape[3] // 2
        seen = torch.autograd.grad(answer[0, :, row, column].sum(), image)[0].abs().sum((0, 1))
        for centre, along in ((row, seen.sum(1)), (column, seen.sum(0))):
            first, last = along.nonzero()[[0, -1], 0].tolist()
            assert last - first <= 32 and abs((first + last + 1) / 2 - stride * (centre + 0.5)) <= 1


def test_training_marks_what_is_new_in_units_of_ok_images(images: ImageSet, fitted: EfficientAD):
    """Of images that were not learned from, the two quantiles of each map lie a tenth apart."""
    assert fitted.held_out == [0, 4, 8] and fitted.notes == {"scaled_by": 3}
    with torch.no_grad():
        for unit, heatmap in zip(fitted.unit, fitted.eval()._both(images[[0, 4, 8]].image), strict=True):
            low, high = np.quantile(heatmap.double().numpy(), [0.9, 0.995]) / unit.item()
            assert high - low == pytest.approx(0.1, rel=1e-3)
    assert small.predict(fitted, small.marked(images)).score.diff() > 0


def prepared(images: ImageSet, **more: object) -> EfficientAD:
    model = detector(**more)
    model.prepare(loader(images, 4))
    return model


def test_a_resumed_training_draws_the_same(images: ImageSet):
    whole, first, second = (prepared(images) for _ in range(3))
    losses = [whole.training_step(images[[1, 2]]).item() for _ in range(3)]
    assert len(set(losses)) == 3
    first.training_step(images[[1, 2]])
    torch.manual_seed(99)
    second.load_state_dict(first.state_dict())
    assert [second.training_step(images[[1, 2]]).item() for _ in range(2)] == losses[1:]


def test_a_small_teacher_learns_the_backbones_features(images: ImageSet):
    """It gets closer with the steps, stays as it is afterwards, and is saved with what learned from it."""
    apart = []
    for steps in (1, 60):
        model = prepared(images, distill=steps)
        before = {k: v.clone() for k, v in model.pdn.state_dict().items()}
        with torch.no_grad():
            model.fit_statistics([[model._of_backbone(images[list(range(12))].image)]])
            target = model._standardised(model._of_backbone(images[[0, 1]].image))
            apart.append((model.pdn(model._normalised_image(images[[0, 1]].image)) - target).square().mean().item())
    assert apart[1] < apart[0]
    fitted = small.fit(detector(distill=2), images, epochs=1)
    assert {k.split(".")[0] for k in fitted.trained_state()} == {"student", "autoencoder", "pdn", "mean", "scale"}
    assert before.keys() == fitted.pdn.state_dict().keys() and not any(p.requires_grad for p in fitted.pdn.parameters())


def test_the_student_answers_nothing_to_penalty_images(images: ImageSet, tmp_path: Path):
    for number in range(3):
        write_image(tmp_path / f"{number}.png", 50 + number)
    with_penalty, without = prepared(images, penalty=str(tmp_path)), prepared(images)
    batch = images[[1]]
    more = with_penalty.training_step(batch) - without.training_step(batch)
    shown = without._normalised_image(with_penalty._penalty_images[[0, 1, 2]].image)
    answers = without.student(shown)[:, :20].square().mean((1, 2, 3))
    assert (more - answers).abs().min() < 1e-5
