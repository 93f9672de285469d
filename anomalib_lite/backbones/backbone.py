"""Name -> a network cut into multi-scale features."""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.backbones.folding import fold
from anomalib_lite.backbones.weights import holds_cut, load_cut, load_weights, similar
from anomalib_lite.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# what lets a timm transformer take images of any size: ViT and its kin, Swin
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class Backbone(nn.Module):
    """RGB images (B, 3, H, W) in [0, 1] -> one feature tensor (B, C_l, H / s_l, W / s_l) a layer.

    Holds its own mean and std, and nothing behind the last layer used. Class and register tokens of a transformer are
    left out; its images are first resized to the nearest multiple of its patch, 256 px to 252 for a patch of 14.

    Attributes:
        channels, strides: C_l and s_l, in the order of the features.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, mean: Sequence[float], std: Sequence[float], patch: tuple[int, int] | None = None
    ) -> None:
        """Args:
        net: Images -> a list or dictionary of features.
        mean, std: Of the input, for each channel.
        patch: (height, width) in px of what a transformer takes as one token; None for other networks.
        """
        super().__init__()
        self.net, self.patch = net, patch
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.channels, self.strides = self._measure()

    @torch.no_grad()
    def frozen(self) -> Self:
        """Made for features alone: nothing learns, and batch normalisation is folded into the convolutions before it.

        That leaves features what they were up to rounding, and saves a fifth of the time; where it would not, because
        a convolution's output is one of the features itself, all stays as it is.
        """
        self.requires_grad_(False).eval()
        plain, image = self.net, torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
        expected, self.net = self(image), deepcopy(plain).eval()  # a graph's copy forgets the mode
        fold([self.net], lambda: self(image))
        if not all(map(_close, self(image), expected)):
            self.net = plain
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.net((self._fitted(image) - self.mean) / self.std)
        features = list(features.values()) if isinstance(features, dict) else list(features)
        if getattr(self.net, "output_fmt", None) == "NHWC":  # Swin and its kin
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return features

    def _fitted(self, image: Tensor) -> Tensor:
        if self.patch is None:
            return image
        size = [max(1, round(side / part)) * part for side, part in zip(image.shape[2:], self.patch, strict=True)]
        if size == list(image.shape[2:]):
            return image
        return F.interpolate(image, size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def _measure(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        training = self.net.training
        self.net.eval()
        features = self(torch.zeros(1, 3, 256, 256))
        self.net.train(training)
        if any(f.ndim != 4 for f in features):
            shapes = ", ".join(str(tuple(f.shape)) for f in features)
            raise UserError(
                f"The backbone's layers give {shapes}, and not maps of features: choose others. Of a transformer, name "
                "blocks by their numbers."
            )
        return tuple(f.shape[1] for f in features), tuple(256 // f.shape[2] for f in features)


def _close(found: Tensor, expected: Tensor) -> bool:
    """Also where untrained weights overflow: what is folded depends on the network alone."""
    return not float((found - expected).abs().amax()) > 1e-3 * float(expected.abs().amax())


def build(
    name: str,
    layers: Sequence[int | str] = (1, 2, 3),
    weights: str = "none",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    norm: bool = False,
) -> Backbone:
    """A backbone by its name in timm.

    Args:
        name: Of a network, e.g. `resnet18.tv_in1k`, `convnext_atto`, `vit_small_patch14_dinov2.lvd142m`.
        layers: Numbers of feature levels, or names of modules, e.g. `blocks.3`, or both; the features come in the
            network's order. Levels are places in timm's feature_info: level l has stride 2 ** (l + 1) in networks with
            a stem of stride 2 (ResNet, EfficientNet), twice that with a stem of stride 4 (ConvNeXt, Swin), and is block
            l of a vision transformer, counted from 0.
        weights: See `load_weights`, or a file of `save_cut`: a fine-tuned network as it was cut.
        mean, std: Of the input in [0, 1]; by default those the weights were trained with.
        norm: Whether a vision transformer's last norm is applied to each layer, as methods that compare tokens do.
    """
    import timm

    layers = list(dict.fromkeys(layers))
    if not layers:
        raise UserError("backbone.layers names no feature level.")
    cut = holds_cut(weights)
    make = partial(_levels, norm=norm) if all(isinstance(layer, int) for layer in layers) else _modules
    net, patch = make(name, layers, "none" if cut else weights)
    if norm and patch is None:
        raise UserError(
            f"backbone.norm=true needs a vision transformer and blocks by numbers; '{name}' is none of these."
        )
    pretrained = timm.get_pretrained_cfg(name)
    config = pretrained.to_dict() if pretrained else {}
    mean, std = mean or config.get("mean", IMAGENET_MEAN), std or config.get("std", IMAGENET_STD)
    try:
        backbone = Backbone(net, mean, std, patch)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"'{name}' takes images of one size alone ({error}): take another network.") from error
    if cut:
        load_cut(net, weights)
    return backbone


def _levels(
    name: str, layers: Sequence[Any], weights: str, norm: bool = False
) -> tuple[nn.Module, tuple[int, int] | None]:
    """The network cut behind numbered levels, and its patch where it is a transformer."""
    import timm
    from timm.models._features import FeatureGetterNet

    try:
        net, sizes = _create(name, features_only=True, out_indices=tuple(sorted(layers)))
    except (AssertionError, IndexError) as error:
        raise UserError(
            f"'{name}' has no feature levels {list(layers)}: choose others with backbone.layers."
        ) from error
    normed = norm and bool(sizes)
    if normed or weights != "none":
        whole = timm.create_model(name, **sizes)
        load_weights(whole, weights, name)
        if normed:
            net = FeatureGetterNet(whole, tuple(sorted(layers)), norm=True)
        else:  # feature networks flatten some names (`stages.0` to `stages_0`): the tensors and their order stay
            flat = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
            net.load_state_dict({key: flat[key.removeprefix("model.").replace(".", "_")] for key in net.state_dict()})
    _cut(net)
    patch = getattr(getattr(getattr(net, "model", net), "patch_embed", None), "patch_size", None)
    return net, tuple(patch) if sizes and patch else None


def _modules(name: str, layers: Sequence[int | str], weights: str) -> tuple[nn.Module, None]:
    """The network cut behind named modules, also those between the numbered levels."""
    whole, _ = _create(name)
    info = getattr(whole, "feature_info", [])
    levels = [layer for layer in layers if isinstance(layer, int)]
    if wrong := [level for level in levels if not 0 <= level < len(info)]:
        raise UserError(f"'{name}' has no feature levels {wrong}: it has 0 to {len(info) - 1}.")
    load_weights(whole, weights, name)
    modules = [str(info[level]["module"]) for level in levels]
    return cut_at(whole, [*modules, *(layer for layer in layers if isinstance(layer, str))], name), None


def _create(name: str, **how: Any) -> tuple[nn.Module, dict[str, Any]]:
    """An untrained network of timm, and the arguments that let it take images of any size."""
    import timm

    try:
        for sizes in ANY_SIZE[:-1]:
            try:
                return timm.create_model(name, **how, **sizes), sizes
            except TypeError:  # no such argument: no transformer, or one of another kind
                continue
        return timm.create_model(name, **how), {}
    except RuntimeError as error:
        what = " with features_only" if how else ""
        raise UserError(f"timm has no model '{name}'{what} ({error}). {similar(name, timm.list_models())}") from error


def _cut(net: nn.Module) -> None:
    """timm's EfficientNet features run every stage: drop those behind the last layer used."""
    stages = getattr(net, "_stage_out_idx", None)
    blocks = getattr(net, "blocks", None)
    if stages and isinstance(blocks, nn.Sequential):
        net.blocks = blocks[: max(stages)]


def cut_at(model: nn.Module, modules: Sequence[str], name: str) -> nn.Module:
    """A network cut behind the last of `modules`: images -> their outputs, by name, in the order they are computed in.

    name: the network's, for messages.
    Errors: UserError for a module that the network has not or does not run, and for a network that torch.fx cannot
    follow.
    """
    from timm.models import create_feature_extractor, get_graph_node_names

    known = [module for module, _ in model.named_modules() if module]
    for module in modules:
        if module not in known:
            raise UserError(_unknown(module, known, name))
    try:
        _, run = get_graph_node_names(model)
    except Exception as error:  # tracing calls the network's own code with stand-ins for tensors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"'{name}' cannot be cut at modules' names ({reason}): give backbone.layers as numbers, or take another "
            "network."
        ) from error
    last = {  # the place of a module's last operation among all that are run
        module: max((k for k, node in enumerate(run) if node == module or node.startswith(module + ".")), default=-1)
        for module in modules
    }
    if unused := [module for module, place in last.items() if place < 0]:
        raise UserError(f"'{name}' puts nothing out at {', '.join(unused)}: choose other backbone.layers.")
    places = {place: module for module, place in last.items()}  # one of those that end at the same place
    return create_feature_extractor(model, [places[place] for place in sorted(places)])


def _unknown(module: str, known: Sequence[str], name: str) -> str:
    parent = module.rpartition(".")[0]
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    beside = [k for k in known if k.rpartition(".")[0] == parent]
    return (
        f"'{name}' has no module '{module}' for backbone.layers. {similar(module, known)} "
        f"In {parent or 'the network'}: {', '.join(beside[:20])}."
    )
