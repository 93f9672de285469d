"""Features at modules' names: those of the whole network, cut behind the last one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anomalib_lite.backbones import build
from anomalib_lite.backbones.weights import save_cut
from anomalib_lite.errors import UserError
from tests.backbones.test_backbone import IMAGE, features, hooked

EFFICIENTNET = "tf_efficientnet_lite0"


def whole_network(library: str, name: str) -> torch.nn.Module:
    import timm
    import torchvision

    torch.manual_seed(0)
    return timm.create_model(name) if library == "timm" else torchvision.models.get_model(name, weights=None)


@pytest.mark.parametrize(
    ("library", "name", "layers", "modules", "channels", "strides"),
    [
        ("timm", EFFICIENTNET, (1, "blocks.3", 2), ("blocks.1", "blocks.2", "blocks.3"), (24, 40, 80), (4, 8, 16)),
        ("timm", EFFICIENTNET, ("blocks.5.1", "blocks.0"), ("blocks.0", "blocks.5.1"), (16, 192), (2, 32)),
        ("timm", "convnext_atto", (0, "stages.1.blocks.0"), ("stages.0", "stages.1.blocks.0"), (40, 80), (4, 8)),
        ("torchvision", "resnet18", ("layer2.0", 1, "layer2"), ("layer1", "layer2.0", "layer2"), (64, 128, 128),
         (4, 8, 8)),
        ("torchvision", "mobilenet_v3_small", ("features.8", "features.1"), ("features.1", "features.8"), (16, 48),
         (4, 16)),
    ],
)  # fmt: skip
def test_named_modules_give_the_whole_networks_features_in_its_order(
    library: str, name: str, layers: tuple, modules: tuple[str, ...], channels: tuple, strides: tuple, tmp_path: Path
):
    whole = whole_network(library, name)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    cut = build(library, name, layers, str(tmp_path / "weights.pth"), mean=[0.5] * 3, std=[0.5] * 3)
    assert (cut.channels, cut.strides) == (channels, strides)
    expected = hooked(whole, list(modules), (IMAGE - 0.5) / 0.5)
    for own, theirs in zip(features(cut, IMAGE), expected, strict=True):
        assert torch.equal(own, theirs)
    # nothing is kept behind the last of them: all that is there takes part in the features
    sum(f.square().mean() for f in cut.train()(IMAGE)).backward()
    assert [n for n, p in cut.named_parameters() if p.grad is None] == []
    assert {k.removeprefix("net.") for k in cut.state_dict()} < whole.state_dict().keys()


def test_numbers_and_names_of_the_same_levels_agree():
    numbers, names = (build("timm", EFFICIENTNET, layers, "bundled") for layers in ((1, 2), ("blocks.2", "blocks.1")))
    for one, other in zip(features(numbers, IMAGE), features(names, IMAGE), strict=True):
        assert torch.equal(one, other)
    twice = build("timm", EFFICIENTNET, (2, "blocks.2"), "bundled")
    assert len(twice.channels) == 1 and torch.equal(features(twice, IMAGE)[0], features(numbers, IMAGE)[1])


def test_a_cut_network_is_saved_and_loaded_as_it_is(tmp_path: Path):
    layers = (1, "blocks.3")
    first = build("timm", EFFICIENTNET, layers, "bundled")
    save_cut(first.net, tmp_path / "cut.safetensors")
    again = build("timm", EFFICIENTNET, layers, str(tmp_path / "cut.safetensors"))
    for one, other in zip(features(first, IMAGE), features(again, IMAGE), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("library", "name", "layers", "message"),
    [
        ("timm", EFFICIENTNET, ("blocks.9",), r"no module 'blocks\.9'.*Similar: blocks\.\d.*In blocks: blocks\.0, blo"),
        ("timm", EFFICIENTNET, ("features",), r"no module 'features'.*In the network: conv_stem, bn1, .*classifier"),
        ("timm", EFFICIENTNET, ("blocks.1", 7), r"no feature levels \[7\]: it has 0 to 4"),
        ("timm", EFFICIENTNET, ("classifier",), r"layers give \(1, 1000\), and not maps"),
        ("timm", "efficientnet_lite9", ("blocks.1",), "no model 'efficientnet_lite9'.*Similar: .*efficientnet_lite"),
        ("torchvision", "mobilenet_v3_small", (1, "features.1"), "has no layer1: take a ResNet, or name modules"),
        ("torchvision", "resnet18", ("layer9",), r"no module 'layer9'.*Similar: layer"),
        ("torchvision", "inception_v3", ("AuxLogits",), r"puts nothing out at AuxLogits|cannot be cut"),
    ],
)
def test_what_cannot_be_cut_says_what_can(library: str, name: str, layers: tuple, message: str):
    with pytest.raises(UserError, match=message):
        build(library, name, layers)


def test_a_network_that_cannot_be_followed_is_refused(monkeypatch: pytest.MonkeyPatch):
    import torchvision

    class Branching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = torch.nn.Conv2d(3, 4, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.layer1(image) if image.mean() > 0 else image

    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: Branching())
    with pytest.raises(UserError, match=r"'branching' cannot be cut at modules' names .*as numbers, or take another"):
        build("torchvision", "branching", ("layer1",))
