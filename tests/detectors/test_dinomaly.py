"""Dinomaly: attention, loss, hard mining and optimizer by hand; layers of one width and of several."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from anomalib_lite.backbones import Backbone
from anomalib_lite.data.images import ImageSet
from anomalib_lite.detectors.dinomaly import Dinomaly, StableAdamW, grouped, hard_mined, linear_attention
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


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return small.images(tmp_path_factory.mktemp("images"))


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


def test_easy_positions_keep_a_share_of_their_gradient():
    """Of 10 positions with a rate of 0.7 the 3 that are answered worst keep all of it; the loss is the same."""
    torch.manual_seed(0)
    target, answer = torch.randn(1, 6, 2, 5), torch.randn(1, 6, 2, 5, requires_grad=True)

    def gradient(mined: torch.Tensor) -> np.ndarray:
        loss = 1 - torch.cosine_similarity(target.flatten(1), mined.flatten(1)).mean()
        return torch.autograd.grad(loss, answer)[0].numpy()[0].reshape(6, 10)

    mined = hard_mined(target, answer, 0.7, 0.1)
    assert torch.equal(mined, answer)
    ratio = gradient(mined) / gradient(answer)
    t, a = (x.detach().numpy()[0].reshape(6, 10) for x in (target, answer))
    distance = 1 - (t * a).sum(0) / np.linalg.norm(t, axis=0) / np.linalg.norm(a, axis=0)
    expected = np.full(10, 0.1)
    expected[np.argsort(distance)[-3:]] = 1
    np.testing.assert_allclose(ratio, np.tile(expected, (6, 1)), rtol=1e-4)
    np.testing.assert_allclose(gradient(hard_mined(target, answer, 0.0, 0.1)), gradient(answer))


def test_hard_mining_grows_with_the_steps(images: ImageSet):
    model, batch, rates = detector(ramp=0.5), images[[0, 1]], []
    model.configure_optimizers(8)
    with pytest.MonkeyPatch.context() as patch:
        see = lambda target, answer, rate, easy: rates.append(rate) or answer  # noqa: E731
        patch.setattr("anomalib_lite.detectors.dinomaly.hard_mined", see)
        for _ in range(6):
            model.training_step(batch)
    assert rates[::2] == pytest.approx([0, 0.225, 0.45, 0.675, 0.9, 0.9])


def test_linear_attention_is_a_weighted_mean():
    """The weights by hand: (elu(q) + 1) . (elu(k) + 1), normalised."""
    q, k, v = torch.randn(3, 2, 7, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    elu = lambda x: np.where(x > 0, x, np.exp(x) - 1) + 1  # noqa: E731
    weights = elu(q.numpy()) @ elu(k.numpy()).transpose(0, 2, 1)
    np.testing.assert_allclose(
        linear_attention(q, k, v), weights / weights.sum(2, keepdims=True) @ v.numpy(), rtol=1e-10
    )


def test_the_optimizer_is_adamw_but_for_gradients_that_jump():
    """torch's AdamW with AMSGrad while gradients stay; where one is ten times as large, the step is shorter."""
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    numbers = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-10}
    optimizers = StableAdamW([ours], **numbers), torch.optim.AdamW([theirs], amsgrad=True, **numbers)
    steps = []
    for scale in (1.0, 1.0, 0.5, 10.0):
        before = ours.detach().clone()
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = scale * torch.tensor([1.0, -2.0, 3.0, 0.5, 1.0])
            optimizer.step()
        steps.append(ours.detach() - before * (1 - 1e-3))
        if scale <= 1:
            torch.testing.assert_close(ours, theirs)
            theirs_before = theirs.detach().clone()
    state = optimizers[0].state[ours]
    scale = (state["largest"] / (1 - 0.999**4)).sqrt()
    excess = (ours.grad / scale).square().mean().sqrt()
    assert excess > 1.5
    torch.testing.assert_close(steps[-1] * excess, theirs.detach() - theirs_before * (1 - 1e-3))


@pytest.mark.parametrize(("backbone", "channels"), [(alike, [64, 64]), (small.backbone, [8, 12])])
def test_groups_are_given_back_and_what_is_new_is_marked(images: ImageSet, backbone, channels: list[int]):
    model, whole = detector(backbone), images[list(range(12))]
    targets = model.targets(model.features(whole.image))
    answers = model.answers(model.features(whole.image), whole.image)
    assert [t.shape for t in targets] == [a.shape for a in answers] and [t.shape[1] for t in targets] == channels
    before = model.eval().validation_loss(whole).item()
    small.fit(model.train(), images, epochs=30)
    assert model.step == 90 and model.eval().validation_loss(whole).item() < 0.7 * before
    batch = images[[0, 1]]
    batch.image[1, :, 8:24, 24:40] = 1.0
    assert small.predict(model, batch).score.diff() > 0


def test_layers_are_grouped_as_the_authors_do():
    assert grouped(8, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]] and grouped(3, 2) == [[0], [1, 2]] and grouped(1, 2) == [[0]]
