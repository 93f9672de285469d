"""Reverse distillation: the loss by hand, and the networks' grids."""

from functools import partial

import numpy as np
import pytest
import torch

from anomalib_lite.data.images import ImageSet
from anomalib_lite.detectors.reverse_distillation import WIDE, Block, Bottleneck, Decoder, ReverseDistillation
from anomalib_lite.errors import UserError
from tests.detectors import small


def test_the_loss_is_the_cosine_distance_of_whole_levels_summed(images: ImageSet):
    """By hand, in numpy: one cosine a level and image, over all channels and positions together."""
    torch.manual_seed(0)
    model = ReverseDistillation(small.backbone, partial(torch.optim.Adam, lr=5e-3), blocks=1).eval()
    batch = images[[0, 1, 2]]
    batch.weight = torch.tensor([1.0, 2.0, 5.0])
    with torch.no_grad():
        teacher = model.teacher(batch.image)
        answers = model.decoder(model.bottleneck(teacher), [f.shape[-2:] for f in teacher])
    expected = 0.0
    for t, a in zip(teacher, answers, strict=True):
        t, a = (f.double().numpy().reshape(3, -1) for f in (t, a))
        cosine = (t * a).sum(1) / np.sqrt((t**2).sum(1) * (a**2).sum(1))
        expected += ((1 - cosine) * [1, 2, 5]).sum() / 8
    assert model.training_step(batch).item() == pytest.approx(expected, rel=1e-5)


def features(channels: tuple[int, ...], strides: tuple[int, ...], size: tuple[int, int]) -> list[torch.Tensor]:
    return [torch.rand(2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(channels, strides, strict=True)]


@pytest.mark.parametrize(
    ("channels", "strides", "size"),
    [
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
        assert answer.min() < 0 < answer.max(), "a teacher's features may be negative, too"


def test_a_block_whose_residual_is_silent_passes_its_input():
    block, given = Block(8, 8), torch.rand(2, 8, 4, 4)
    torch.nn.init.zeros_(block.residual[-1][1].weight)
    assert torch.equal(block(given), given)


@pytest.mark.parametrize("strides", [(4, 12), (8, 4)])
def test_strides_that_do_not_double_are_refused(strides: tuple[int, int]):
    with pytest.raises(UserError, match=r"powers of two.*backbone\.layers"):
        Bottleneck((4, 6), strides)
