"""Dinomaly: the loss by hand; layers of one width and of several. test_parity.py holds gradients and optimizer."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from anomalib_lite.backbones import Backbone
from anomalib_lite.data.images import ImageSet
from anomalib_lite.detectors.dinomaly import Dinomaly, StableAdamW, grouped
from tests.detectors import small


class Alike(nn.Module):
    """Four levels of one width and stride, as a transformer's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 64, 8, 8) for _ in range(4))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [layer(image) for layer in self.layers]


def alike() -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Backbone(Alike(), [0.5] * 3, [0.25] * 3)


def detector(backbone=small.backbone, **more: object) -> Dinomaly:
    torch.manual_seed(0)
    return Dinomaly(backbone, partial(StableAdamW, lr=2e-3), depth=2, **more)


def test_the_loss_is_the_mean_cosine_distance_of_whole_groups(images: ImageSet):
    """In numpy; of layers alike a group is their mean, and the last blocks answer the first layers."""
    model, batch = detector(alike).eval(), images[[0, 1, 2]]
    batch.weight = torch.tensor([1.0, 2.0, 5.0])
    with torch.no_grad():
        features = model.features(batch.image)
        tokens = model.bottleneck(torch.stack(features).mean(0).flatten(2).transpose(1, 2))
        outputs = [tokens := block(tokens) for block in model.decoder]
    levels, expected = [f.double().numpy() for f in features], 0.0
    for target, output in (((levels[0] + levels[1]) / 2, outputs[1]), ((levels[2] + levels[3]) / 2, outputs[0])):
        target, answer = target.reshape(3, -1), output.transpose(1, 2).double().numpy().reshape(3, -1)
        cosine = (target * answer).sum(1) / np.linalg.norm(target, axis=1) / np.linalg.norm(answer, axis=1)
        expected += ((1 - cosine) * [1, 2, 5]).sum() / 8 / 2
    assert model.training_step(batch).item() == pytest.approx(expected, rel=1e-5)


def test_hard_mining_grows_with_the_steps(images: ImageSet, monkeypatch: pytest.MonkeyPatch):
    model, batch, rates = detector(ramp=0.5), images[[0, 1]], []
    model.configure_optimizers(8)
    see = lambda target, answer, rate, easy: rates.append(rate) or answer  # noqa: E731
    monkeypatch.setattr("anomalib_lite.detectors.dinomaly.hard_mined", see)
    for _ in range(6):
        model.training_step(batch)
    assert rates[::2] == pytest.approx([0, 0.225, 0.45, 0.675, 0.9, 0.9])


@pytest.mark.parametrize(("backbone", "channels"), [(alike, [64, 64]), (small.backbone, [8, 12])])
def test_groups_are_given_back_and_what_is_new_is_marked(images: ImageSet, backbone, channels: list[int]):
    model, whole = detector(backbone), images[list(range(12))]
    targets = model.targets(model.features(whole.image))
    answers = model.answers(model.features(whole.image), whole.image)
    assert [t.shape for t in targets] == [a.shape for a in answers] and [t.shape[1] for t in targets] == channels
    before = model.eval().validation_loss(whole).item()
    small.fit(model.train(), images, epochs=20)
    assert model.step == 60 and model.eval().validation_loss(whole).item() < 0.8 * before
    assert small.predict(model, small.marked(images)).score.diff() > 0


def test_layers_are_grouped_as_the_authors_do():
    assert grouped(8, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]] and grouped(3, 2) == [[0], [1, 2]] and grouped(1, 2) == [[0]]
