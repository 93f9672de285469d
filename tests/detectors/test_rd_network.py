"""The bottleneck and the decoder: shapes for any strides, and what each level can see."""

from __future__ import annotations

import pytest
import torch

from anomalib_lite.detectors.rd_network import WIDE, Block, Bottleneck, Decoder
from anomalib_lite.errors import UserError


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
