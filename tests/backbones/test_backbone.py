"""Features: those of the whole network, no more and no less of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from anomalib_lite.backbones import Backbone, build
from anomalib_lite.errors import UserError

IMAGE = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))


def hooked(whole: nn.Module, modules: list[str], image: Tensor) -> list[Tensor]:
    """What the named modules of a whole network put out, on their way to its classification."""
    seen: dict[str, Tensor] = {}
    for name in modules:
        whole.get_submodule(name).register_forward_hook(lambda *a, name=name: seen.__setitem__(name, a[2]))
    with torch.no_grad():
        whole.eval()(image)
    return [seen[name] for name in modules]


def features(backbone: Backbone, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return backbone.eval()(image)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "convnext_atto", "resnet10t"])
def test_a_cut_timm_network_gives_the_whole_ones_features(name: str, tmp_path):
    import timm

    torch.manual_seed(0)
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    cut = build("timm", name, layers=(1, 2), weights=str(tmp_path / "weights.pth"), mean=[0.5] * 3, std=[0.5] * 3)
    info = timm.create_model(name, features_only=True, out_indices=(1, 2)).feature_info
    expected = hooked(whole, [f["module"].replace("stages_", "stages.") for f in info.get_dicts()], (IMAGE - 0.5) / 0.5)
    for own, theirs in zip(features(cut, IMAGE), expected, strict=True):
        assert torch.equal(own, theirs)
    assert cut.channels == tuple(info.channels()) and cut.strides == tuple(info.reduction())


def test_a_cut_torchvision_network_gives_the_whole_ones_features(tmp_path):
    import torchvision

    torch.manual_seed(0)
    whole = torchvision.models.resnet18(weights=None)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    cut = build("torchvision", "resnet18", layers=(1, 3), weights=str(tmp_path / "weights.pth"))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = hooked(whole, ["layer1", "layer3"], (IMAGE - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    for own, theirs in zip(features(cut, IMAGE), expected, strict=True):
        assert torch.equal(own, theirs)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize(("layers", "strides"), [((1, 2, 3), (4, 8, 16)), ((2,), (8,)), ((3, 1), (4, 16))])
def test_levels_have_the_strides_that_are_promised(library: str, layers: tuple[int, ...], strides: tuple[int, ...]):
    backbone = build(library, {"timm": "tf_efficientnet_lite0", "torchvision": "resnet18"}[library], layers)
    assert backbone.strides == strides
    for feature, channels, stride in zip(features(backbone, IMAGE), backbone.channels, strides, strict=True):
        assert feature.shape == (2, channels, 96 // stride, 128 // stride)


@pytest.mark.parametrize(("library", "name"), [("timm", "tf_efficientnet_lite0"), ("timm", "mobilenetv3_small_050"),
                                               ("timm", "convnext_atto"), ("torchvision", "resnet18")])  # fmt: skip
def test_nothing_behind_the_last_level_is_kept(library: str, name: str):
    """Every parameter gets a gradient from the features, and fewer levels have fewer parameters."""
    sizes = []
    for layers in ((1,), (1, 2), (1, 2, 3)):
        backbone = build(library, name, layers)
        sum(f.square().mean() for f in backbone(IMAGE[:, :, :64, :64])).backward()
        assert [n for n, p in backbone.named_parameters() if p.grad is None] == []
        sizes.append(sum(p.numel() for p in backbone.parameters()))
    assert sizes == sorted(set(sizes))


def test_measuring_leaves_no_trace():
    """The size of the features is found with a blank image, which must not enter the batch statistics."""
    backbone = build("torchvision", "resnet18")
    assert backbone.training and all(p.requires_grad for p in backbone.parameters())
    counts = [b for n, b in backbone.named_buffers() if n.endswith("num_batches_tracked")]
    assert counts and all(b == 0 for b in counts)


def test_mean_and_std_come_from_the_weights_or_from_the_configuration():
    assert build("timm", "tf_efficientnet_lite0").mean.flatten().tolist() == [0.5] * 3
    assert build("timm", "resnet10t").mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    own = build("timm", "resnet10t", mean=[0.1, 0.2, 0.3], std=[1, 2, 3])
    assert own.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3]) and own.std.flatten().tolist() == [1, 2, 3]
    assert "mean" not in own.state_dict()


@pytest.mark.parametrize(
    ("library", "name", "layers", "message"),
    [
        ("keras", "resnet18", (1,), "must be torchvision or timm, not 'keras'"),
        ("timm", "resnt18", (1,), r"no model 'resnt18'.*Similar: resnet18"),
        ("torchvision", "resnt18", (1,), r"no model 'resnt18'.*Similar: resnet18"),
        ("torchvision", "mobilenet_v3_small", (1, 2), "has no layer1, layer2: take a ResNet, or name modules"),
        ("timm", "resnet10t", (2, 9), r"no feature levels \[2, 9\]"),
        ("timm", "resnet10t", (), "names no feature level"),
        ("timm", "vit_tiny_patch16_224", (1,), r"images of one size alone.*convolutional"),
    ],
)
def test_what_cannot_be_built_says_what_can(library: str, name: str, layers: tuple[int, ...], message: str):
    with pytest.raises(UserError, match=message):
        build(library, name, layers)
