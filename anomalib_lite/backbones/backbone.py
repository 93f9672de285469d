"""A network cut into multi-scale features."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anomalib_lite.backbones.named import cut_at, level_modules
from anomalib_lite.backbones.weights import holds_cut, load_cut, load_weights
from anomalib_lite.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """RGB images (B, 3, H, W) in [0, 1] -> one feature tensor (B, C_l, H / s_l, W / s_l) a layer.

    Holds its own mean and std, and nothing behind the last layer used.
    channels, strides: C_l and s_l, in the order of the features.
    """

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.channels, self.strides = self._measure()

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.net((image - self.mean) / self.std)
        return list(features.values()) if isinstance(features, dict) else list(features)

    @torch.no_grad()
    def _measure(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        training = self.net.training
        self.net.eval()
        features = self(torch.zeros(1, 3, 256, 256))
        self.net.train(training)
        if any(f.ndim != 4 for f in features):
            shapes = ", ".join(str(tuple(f.shape)) for f in features)
            raise UserError(f"The backbone's layers give {shapes}, and not maps of features: choose others.")
        return tuple(f.shape[1] for f in features), tuple(256 // f.shape[2] for f in features)


def build(
    library: str,
    name: str,
    layers: Sequence[int | str] = (1, 2, 3),
    weights: str = "none",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """A backbone by name.

    library: `torchvision` (levels of ResNets, modules of others) or `timm` (levels of any model that offers
    `features_only`).
    layers: numbers of feature levels, or names of modules, e.g. `blocks.3`, or both; the features come in the
    network's order. torchvision's level l is layer<l>, of stride 2 ** (l + 1); timm's is place l in its feature_info:
    the same for networks with a stem of stride 2 (ResNet, EfficientNet), twice that for a stem of stride 4 (ConvNeXt).
    weights: see `load_weights`, or a file of `save_cut`: a fine-tuned network as it was cut.
    mean, std: of the input in [0, 1]; by default those the weights were trained with.
    """
    layers = list(dict.fromkeys(layers))
    if not layers:
        raise UserError("backbone.layers names no feature level.")
    if holds_cut(weights):
        backbone = build(library, name, layers, "none", mean, std)
        load_cut(backbone.net, weights)
        return backbone
    if library == "torchvision":
        return _torchvision(name, layers, weights, mean or IMAGENET_MEAN, std or IMAGENET_STD)
    if library == "timm":
        return _timm(name, layers, weights, mean, std)
    raise UserError(f"backbone.library must be torchvision or timm, not '{library}'.")


def _torchvision(
    name: str, layers: Sequence[int | str], weights: str, mean: Sequence[float], std: Sequence[float]
) -> Backbone:
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    try:
        model = torchvision.models.get_model(name, weights=None)
    except ValueError as error:
        near = ", ".join(difflib.get_close_matches(name, torchvision.models.list_models(), 5, 0.5))
        raise UserError(f"torchvision has no model '{name}'. Similar: {near or 'none'}.") from error
    levels = [f"layer{layer}" for layer in layers if isinstance(layer, int)]
    if any(not hasattr(model, level) for level in levels):
        raise UserError(
            f"torchvision's '{name}' has no {', '.join(levels)}: take a ResNet, or name modules in backbone.layers, "
            "or take backbone=timm."
        )
    load_weights(model, weights, library="torchvision", name=name)
    modules = levels + [layer for layer in layers if isinstance(layer, str)]
    return Backbone(cut_at(model, modules, name, get_graph_node_names, create_feature_extractor), mean, std)


def _timm(
    name: str, layers: Sequence[int | str], weights: str, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Backbone:
    import timm

    make = _timm_levels if all(isinstance(layer, int) for layer in layers) else _timm_modules
    net = make(name, layers, weights)
    config = timm.get_pretrained_cfg(name)
    config = config.to_dict() if config else {}
    mean, std = mean or config.get("mean", IMAGENET_MEAN), std or config.get("std", IMAGENET_STD)
    try:
        return Backbone(net, mean, std)
    except AssertionError as error:
        raise UserError(f"'{name}' takes images of one size alone ({error}): take a convolutional network.") from error


def _timm_levels(name: str, layers: Sequence[int], weights: str) -> nn.Module:
    import timm

    try:
        net = timm.create_model(name, features_only=True, out_indices=tuple(sorted(layers)))
    except RuntimeError as error:
        raise UserError(f"timm has no model '{name}' with features_only ({error}). {_similar(name)}") from error
    except (AssertionError, IndexError) as error:
        raise UserError(
            f"'{name}' has no feature levels {list(layers)}: choose others with backbone.layers."
        ) from error
    if weights != "none":
        whole = timm.create_model(name)
        load_weights(whole, weights, library="timm", name=name)
        _copy_features(net, whole)
    _cut(net)
    return net


def _timm_modules(name: str, layers: Sequence[int | str], weights: str) -> nn.Module:
    import timm
    from timm.models import create_feature_extractor, get_graph_node_names

    try:
        whole = timm.create_model(name)
    except RuntimeError as error:
        raise UserError(f"timm has no model '{name}' ({error}). {_similar(name)}") from error
    levels = [layer for layer in layers if isinstance(layer, int)]
    modules = level_modules(getattr(whole, "feature_info", []), levels, name)
    modules += [layer for layer in layers if isinstance(layer, str)]
    load_weights(whole, weights, library="timm", name=name)
    return cut_at(whole, modules, name, get_graph_node_names, create_feature_extractor)


def _similar(name: str) -> str:
    import timm

    return f"Similar: {', '.join(difflib.get_close_matches(name, timm.list_models(), 5, 0.5)) or 'none'}."


def _copy_features(net: nn.Module, whole: nn.Module) -> None:
    """Feature networks of timm flatten some names (`stages.0` to `stages_0`): the tensors and their order stay."""
    source = whole.state_dict()
    flat = {key.replace(".", "_"): value for key, value in source.items()}
    net.load_state_dict({key: flat[key.removeprefix("model.").replace(".", "_")] for key in net.state_dict()})


def _cut(net: nn.Module) -> None:
    """timm's EfficientNet features run every stage: drop those behind the last layer used."""
    stages = getattr(net, "_stage_out_idx", None)
    if stages and isinstance(getattr(net, "blocks", None), nn.Sequential):
        net.blocks = net.blocks[: max(stages)]
