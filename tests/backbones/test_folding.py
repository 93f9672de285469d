"""A frozen backbone gives the features that it gave, without its batch normalisations."""

import pytest
import torch
from torch import nn

from anomalib_lite.backbones import Backbone, build

IMAGE = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))


def lived(name: str, layers: tuple) -> Backbone:
    """A network of random weights whose statistics are not those of a new one."""
    torch.manual_seed(0)
    backbone = build(name, layers)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return backbone


def norms(backbone: Backbone) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


@pytest.mark.parametrize(
    ("name", "layers", "left"),
    [
        ("tf_efficientnet_lite0", (1, 2, 3), 0),
        ("tf_efficientnet_lite0", (1, "blocks.3"), 0),
        ("resnet18", (1, 2), 0),
        ("resnet18", ("layer1.0.conv1", "layer1"), 5),  # a convolution's own output is asked for
        ("vit_tiny_patch16_224", (1,), 0),
    ],
)
@torch.no_grad()
def test_frozen_features_are_what_they_were(name: str, layers: tuple, left: int):
    backbone = lived(name, layers)
    expected = backbone.eval()(IMAGE)
    frozen = backbone.frozen()
    assert norms(frozen) == left and not frozen.training
    assert not any(p.requires_grad for p in frozen.parameters())
    for own, theirs in zip(frozen(IMAGE), expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
