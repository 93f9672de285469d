"""Reverse distillation: loss and map by hand, weights, a teacher that never changes, and one path through saving."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.reverse_distillation import WIDE, Block, Bottleneck, Decoder, ReverseDistillation
from anomalib_lite.errors import UserError
from tests.detectors import small


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return small.images(tmp_path_factory.mktemp("images"))


def detector(cache_mb: float = 100, seed: int = 0, fusion: str = "sum") -> ReverseDistillation:
    torch.manual_seed(seed)
    optimizer = partial(torch.optim.Adam, lr=5e-3, betas=(0.5, 0.999))
    return ReverseDistillation(small.backbone, optimizer, blocks=1, fusion=fusion, cache_mb=cache_mb)


@pytest.fixture(scope="module")
def fitted(images: ImageSet) -> ReverseDistillation:
    return small.fit(detector(), images, epochs=2)


def loss(model: ReverseDistillation, batch: Batch) -> float:
    return model.training_step(batch).item()


def test_the_loss_is_the_cosine_distance_of_whole_levels_summed(images: ImageSet):
    """By hand, in numpy: one cosine a level and image, over all channels and positions together."""
    model, batch = detector().eval(), images[[0, 1, 2]]
    batch.weight = torch.tensor([1.0, 2.0, 5.0])
    with torch.no_grad():
        teacher = model.teacher(batch.image)
        answers = model.decoder(model.bottleneck(teacher), [f.shape[-2:] for f in teacher])
    expected = 0.0
    for t, a in zip(teacher, answers, strict=True):
        t, a = (f.double().numpy().reshape(3, -1) for f in (t, a))
        cosine = (t * a).sum(1) / np.sqrt((t**2).sum(1) * (a**2).sum(1))
        expected += ((1 - cosine) * [1, 2, 5]).sum() / 8
    assert loss(model, batch) == pytest.approx(expected, rel=1e-5)


def test_the_map_adds_one_minus_the_cosine_of_each_position(images: ImageSet):
    model, batch = detector().eval(), images[[0, 1]]
    with torch.no_grad():
        teacher = model.teacher(batch.image)
        answers = model.decoder(model.bottleneck(teacher), [f.shape[-2:] for f in teacher])
        found = model.anomaly_map(batch.image)
    maps = []
    for t, a in zip(teacher, answers, strict=True):
        t, a = t.double().numpy(), a.double().numpy()
        maps.append(1 - (t * a).sum(1) / np.linalg.norm(t, axis=1) / np.linalg.norm(a, axis=1))
    coarse = torch.nn.functional.interpolate(torch.from_numpy(maps[1])[:, None], scale_factor=2, mode="bilinear")
    np.testing.assert_allclose(found[:, 0], (maps[0] + coarse[:, 0].numpy()) / 2, atol=1e-6)


def test_a_weight_counts_like_copies(images: ImageSet):
    """In evaluation mode, since copies would also shift the batch's statistics."""
    model = detector().eval()

    def weighted(indices: list[int], weights: list[float]) -> float:
        batch = images[indices]
        batch.weight = torch.tensor(weights)
        return loss(model, batch)

    copies = weighted([0, 0, 0, 1, 2], [1.0] * 5)
    assert weighted([0, 1, 2], [3, 1, 1]) == pytest.approx(copies, rel=1e-5)
    assert weighted([0, 5], [1, 0]) == pytest.approx(weighted([0], [1]), rel=1e-5)
    assert abs(weighted([0, 1, 2], [1, 1, 1]) / copies - 1) > 1e-5


def test_training_lowers_the_loss_and_marks_what_is_new(images: ImageSet):
    model, whole = detector(), images[list(range(12))]
    before = loss(model.eval(), whole)
    small.fit(model.train(), images, epochs=12)
    assert loss(model.eval(), whole) < 0.5 * before
    batch = images[[0, 1]]
    batch.image[1, :, 8:24, 24:40] = 1.0
    assert small.predict(model, batch).score.diff() > 0


def test_the_teacher_never_changes_and_never_trains(images: ImageSet):
    model, modes = detector(cache_mb=0), set()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for module in model.teacher.modules():
        module.register_forward_hook(lambda module, *_: modes.add(module.training))
    small.fit(model, images, epochs=2)
    assert modes == {False}
    after = model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before if k.startswith("teacher."))
    assert not any(torch.equal(after[k], before[k]) for k in before if k.endswith("weight") and "teacher" not in k)


def test_kept_features_train_the_same_decoder(images: ImageSet, fitted: ReverseDistillation):
    fresh = small.fit(detector(cache_mb=0), images, epochs=2)
    for (name, own), other in zip(fitted.decoder.named_parameters(), fresh.decoder.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4, msg=name)


def test_what_is_saved_predicts_the_same_to_the_bit(images: ImageSet, fitted: ReverseDistillation, tmp_path: Path):
    batch = images[[0, 3, 5]]
    save_file({k: v.contiguous() for k, v in fitted.state_dict().items()}, tmp_path / "model.safetensors")
    fresh = detector(seed=7)
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    for own, other in zip(small.predict(fitted, batch), small.predict(fresh, batch), strict=True):
        assert torch.equal(own, other)
    again = detector(seed=8)
    again.load_state_dict(fitted.trained_state(), strict=False)
    assert torch.equal(small.predict(again, batch).map, small.predict(fitted, batch).map), "nothing else is learned"


def features(channels: tuple[int, ...], strides: tuple[int, ...], size: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.rand(2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(channels, strides, strict=True)]


@pytest.mark.parametrize(
    ("channels", "strides", "size"),
    [
        ((8, 16, 32), (4, 8, 16), (64, 96)),
        ((8, 16, 32), (4, 8, 16), (72, 100)),  # grids that are odd
        ((6, 10), (4, 16), (64, 64)),  # a level left out
        ((6, 10, 12), (4, 8, 8), (64, 64)),  # two levels of one stride
        ((16, WIDE + 8), (8, 16), (64, 64)),  # narrowing blocks
        ((16,), (8,), (64, 64)),
    ],
)
def test_the_decoder_mirrors_the_encoder(channels: tuple[int, ...], strides: tuple[int, ...], size: tuple[int, int]):
    given = features(channels, strides, size)
    bottleneck, decoder = Bottleneck(channels, strides), Decoder(channels, strides)
    embedded = bottleneck(given)
    coarse = given[-1].shape
    assert embedded.shape == (2, 2 * channels[-1], -(-coarse[2] // 2), -(-coarse[3] // 2))
    assert [f.shape for f in decoder(embedded, [f.shape[-2:] for f in given])] == [f.shape for f in given]


def test_every_level_reaches_every_answer_through_the_bottleneck_alone():
    channels, strides = (4, 6), (4, 8)
    given = [f.requires_grad_() for f in features(channels, strides, (32, 32))]
    bottleneck, decoder = Bottleneck(channels, strides), Decoder(channels, strides)
    for answer in decoder(bottleneck(given), [f.shape[-2:] for f in given]):
        gradients = torch.autograd.grad(answer.sum(), given, retain_graph=True)
        assert all(g.abs().sum() > 0 for g in gradients)


def test_answers_can_be_negative():
    channels, strides = (4, 6), (4, 8)
    given = features(channels, strides, (32, 32))
    answers = Decoder(channels, strides)(Bottleneck(channels, strides)(given), [f.shape[-2:] for f in given])
    assert all((answer < 0).any() and (answer > 0).any() for answer in answers)


@pytest.mark.parametrize("scale", [0.5, 1, 2])
@pytest.mark.parametrize("channels", [16, WIDE + 8])
def test_a_block_changes_the_grid_and_keeps_what_it_can(scale: float, channels: int):
    assert Block(12, channels, scale)(torch.rand(2, 12, 8, 8)).shape == (2, channels, 8 * scale, 8 * scale)


def test_a_block_whose_residual_is_silent_passes_its_input():
    block, given = Block(8, 8), torch.rand(2, 8, 4, 4)
    torch.nn.init.zeros_(block.residual[-1][1].weight)
    assert torch.equal(block(given), given)


@pytest.mark.parametrize("strides", [(4, 12), (8, 4)])
def test_strides_that_do_not_double_are_refused(strides: tuple[int, int]):
    with pytest.raises(UserError, match=r"powers of two.*backbone\.layers"):
        Bottleneck((4, 6), strides)
