"""Which blocks a network has, and that only the chosen ones are let free."""

from __future__ import annotations

import pytest
from torch import nn

from anomalib_lite.backbones import build
from anomalib_lite.backbones.finetuning import block_of, blocks, keep_statistics, unfreeze_last
from anomalib_lite.errors import UserError


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("layer2.0.downsample.0.weight", "layer2.0"),  # a shortcut belongs to its block
        ("blocks.2.1.conv_pw.weight", "blocks.2.1"),
        ("stages_1.blocks.3.norm.bias", "stages_1.blocks.3"),
        ("conv_stem.weight", "conv_stem"),
        ("model.blocks.3.attn.qkv.weight", "blocks.3"),
    ],
)
def test_a_tensor_belongs_to_its_residual_block(name: str, block: str):
    assert block_of(name) == block


def test_resnet18_has_its_residual_blocks_in_order():
    net = build("resnet18", (1, 2, 3)).net
    assert blocks(net) == ["conv1", "bn1", *(f"layer{level}.{i}" for level in (1, 2, 3) for i in (0, 1))]


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224"])
def test_the_last_blocks_learn_and_the_others_are_frozen(name: str):
    net = build(name, (1, 2)).net
    names = blocks(net)
    learning = unfreeze_last(net, 2)
    assert learning == names[-2:]
    free = {block_of(n) for n, p in net.named_parameters() if p.requires_grad}
    frozen = {block_of(n) for n, p in net.named_parameters() if not p.requires_grad}
    assert free == set(names[-2:]) and frozen == set(names[:-2])
    assert unfreeze_last(net, None) == names and all(p.requires_grad for p in net.parameters())


def test_normalisation_learns_with_its_block_alone():
    net = build("resnet18", (1, 2)).net.train()
    keep_statistics(net, unfreeze_last(net, 1))
    modes = {name: m.training for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, training in modes.items() if training} == {"layer2.1.bn1", "layer2.1.bn2"}


@pytest.mark.parametrize("count", [0, -1, 99])
def test_a_number_of_blocks_that_cannot_be_names_those_there_are(count: int):
    net = build("resnet18", (1,)).net
    with pytest.raises(UserError, match=rf"from 1 to 4, but is {count}; .* conv1, bn1, layer1\.0, layer1\.1"):
        unfreeze_last(net, count)
