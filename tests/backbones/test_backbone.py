"""Features: those of the whole network, no more and no less of it."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from anomalib_lite.backbones import Backbone, build
from anomalib_lite.backbones.backbone import cut_at
from anomalib_lite.backbones.weights import save_cut
from anomalib_lite.errors import UserError

IMAGE = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
LITE0, RESNET, VIT, SWIN = "tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
REGISTERS = "vit_small_patch14_reg4_dinov2"


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


def whole_and_cut(folder: Path, name: str, layers: tuple, mean: float, **options) -> tuple[nn.Module, Backbone]:
    """A network of random weights, and the backbone that is cut out of it; std is 0.5 or 1."""
    torch.manual_seed(0)
    whole = timm.create_model(name, **options)
    torch.save(whole.state_dict(), folder / "weights.pth")
    return whole, build(name, layers, str(folder / "weights.pth"), [mean] * 3, [1 - mean] * 3)


@pytest.mark.parametrize(
    ("name", "layers", "modules", "channels", "strides"),
    [
        (LITE0, (1, 2), ("blocks.1", "blocks.2"), (24, 40), (4, 8)),
        (LITE0, (1, "blocks.3", 2), ("blocks.1", "blocks.2", "blocks.3"), (24, 40, 80), (4, 8, 16)),
        (LITE0, (2, "blocks.2"), ("blocks.2",), (40,), (8,)),
        (LITE0, ("blocks.5.1", "blocks.0"), ("blocks.0", "blocks.5.1"), (16, 192), (2, 32)),
        ("mobilenetv3_small_050", (1, 2), ("blocks.0", "blocks.1"), (8, 16), (4, 8)),
        ("convnext_atto", (1, 2), ("stages.1", "stages.2"), (80, 160), (8, 16)),
        ("convnext_atto", (0, "stages.1.blocks.0"), ("stages.0", "stages.1.blocks.0"), (40, 80), (4, 8)),
        (RESNET, (3, 1), ("layer1", "layer3"), (64, 256), (4, 16)),
        (RESNET, ("layer2.0", 1, "layer2"), ("layer1", "layer2.0", "layer2"), (64, 128, 128), (4, 8, 8)),
    ],
)
def test_a_cut_network_gives_the_whole_ones_features_in_its_order(
    name: str, layers: tuple, modules: tuple, channels: tuple, strides: tuple, tmp_path: Path
):
    whole, cut = whole_and_cut(tmp_path, name, layers, 0.5)
    assert (cut.channels, cut.strides) == (channels, strides)
    expected = hooked(whole, list(modules), (IMAGE - 0.5) / 0.5)
    for own, theirs in zip(features(cut, IMAGE), expected, strict=True):
        assert torch.equal(own, theirs)
    # nothing is kept behind the last of them: all that is there takes part in the features
    sum(f.square().mean() for f in cut.train()(IMAGE)).backward()
    assert [n for n, p in cut.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("name", "layers", "size", "grid"),
    [
        (VIT, (3, 10), (96, 128), (6, 8)),
        (VIT, (0,), (100, 125), (6, 8)),  # resized to the nearest multiples of 16
        (REGISTERS, (1,), (96, 128), (7, 9)),  # 98 x 126 px
    ],
)
def test_a_transformers_tokens_lie_where_their_patches_do(
    name: str, layers: tuple, size: tuple, grid: tuple, tmp_path: Path
):
    """Of the whole network the tokens behind class and register tokens, row by row."""
    whole, cut = whole_and_cut(tmp_path, name, layers, 0.0, dynamic_img_size=True)
    patch = whole.patch_embed.patch_size[0]
    assert cut.strides == (256 // round(256 / patch),) * len(layers)
    image = IMAGE[:, :, : size[0], : size[1]]
    fitted = torch.nn.functional.interpolate(image, [side * patch for side in grid], mode="bilinear")
    tokens = hooked(whole, [f"blocks.{layer}" for layer in layers], fitted)
    for own, theirs in zip(features(cut, image), tokens, strict=True):
        theirs = theirs[:, whole.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)
        torch.testing.assert_close(own, theirs)


def test_swins_features_have_their_channels_first(tmp_path: Path):
    whole, cut = whole_and_cut(tmp_path, SWIN, (0, 2), 0.0, strict_img_size=False)
    assert (cut.channels, cut.strides) == ((96, 384), (4, 16))
    for own, theirs in zip(features(cut, IMAGE), hooked(whole, ["layers.0", "layers.2"], IMAGE), strict=True):
        torch.testing.assert_close(own, theirs.permute(0, 3, 1, 2))


def test_the_blank_image_that_measures_the_features_leaves_no_trace():
    backbone = build(RESNET)
    assert backbone.training and all(p.requires_grad for p in backbone.parameters())
    counts = [b for n, b in backbone.named_buffers() if n.endswith("num_batches_tracked")]
    assert counts and all(b == 0 for b in counts)


def test_mean_and_std_come_from_the_weights_or_from_the_configuration():
    assert build(LITE0).mean.flatten().tolist() == [0.5] * 3
    assert build("resnet10t").mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    own = build("resnet10t", mean=[0.1, 0.2, 0.3], std=[1, 2, 3])
    assert own.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3]) and own.std.flatten().tolist() == [1, 2, 3]
    assert "mean" not in own.state_dict()


@pytest.mark.parametrize(("name", "layers"), [(LITE0, (1, "blocks.3")), ("convnext_atto", (1, 2)), (VIT, (2,))])
def test_a_cut_network_goes_through_its_own_file(name: str, layers: tuple, tmp_path: Path):
    cut = build(name, layers)
    save_cut(cut.net, tmp_path / "cut.safetensors")
    again = build(name, layers, str(tmp_path / "cut.safetensors"))
    for own, theirs in zip(features(again, IMAGE), features(cut, IMAGE), strict=True):
        assert torch.equal(own, theirs)
    with pytest.raises(UserError, match="the features of another backbone, or other layers of it"):
        build(name, (3,), str(tmp_path / "cut.safetensors"))


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("resnt18", (1,), r"no model 'resnt18'.*Similar: resnet18"),
        ("resnet10t", (2, 9), r"no feature levels \[2, 9\], only 0 to 4"),
        ("resnet10t", (), "names no feature level"),
        ("cait_xxs24_224", (1,), r"images of one size only.*another network"),
        ("hiera_tiny_224", (0,), r"images of one size only.*another network"),
        (VIT, ("blocks.3",), "For transformers, give blocks by their numbers"),
        (LITE0, ("blocks.9",), r"no module 'blocks\.9'.*Similar: blocks\.\d.*In blocks: blocks\.0, blo"),
        (LITE0, ("features",), r"no module 'features'.*In the network: conv_stem, bn1, .*classifier"),
        (LITE0, ("blocks.1", 7), r"no feature levels \[7\], only 0 to 4"),
        (LITE0, ("classifier",), r"layers give \(1, 1000\), and not maps"),
        ("efficientnet_lite9", ("blocks.1",), "no model 'efficientnet_lite9'.*Similar: .*efficientnet_lite"),
    ],
)
def test_what_cannot_be_built_says_what_can(name: str, layers: tuple, message: str):
    with pytest.raises(UserError, match=message):
        build(name, layers)


def test_a_network_that_cannot_be_followed_is_refused():
    class Branching(nn.Sequential):
        def forward(self, image: Tensor) -> Tensor:
            return self[0](image) if image.mean() > 0 else image

    class HalfUsed(nn.Sequential):
        def forward(self, image: Tensor) -> Tensor:
            return self[0](image)

    with pytest.raises(UserError, match=r"'branching' cannot be cut at modules' names .*as numbers, or use another"):
        cut_at(Branching(nn.Conv2d(3, 4, 1)), ["0"], "branching")
    with pytest.raises(UserError, match="does not run 1"):
        cut_at(HalfUsed(nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)), ["1"], "half used")


def test_norm_is_the_transformers_last_norm_after_each_layer():
    raw, normed = (build(VIT, [3, 11], norm=norm).eval() for norm in (False, True))
    normed.net.model.norm.weight.data.normal_()
    raw.net.load_state_dict(normed.net.state_dict(), strict=False)
    image = torch.rand(1, 3, 64, 64)
    for before, after in zip(raw(image), normed(image), strict=True):
        tokens = normed.net.model.norm(before.flatten(2).mT)
        torch.testing.assert_close(after.flatten(2).mT, tokens)
    with pytest.raises(UserError, match="needs a vision transformer"):
        build(LITE0, [1], norm=True)
