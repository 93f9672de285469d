"""Networks by name, cut to return multi-scale features."""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.backbones.folding import fold
from anomalib_lite.backbones.weights import holds_cut, load_cut, load_weights, similar
from anomalib_lite.errors import UserError, first_line

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# arguments that let timm transformers take images of any size: ViT-like, Swin
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class Backbone(nn.Module):
    """Maps RGB images (B, 3, H, W) in [0, 1] to one feature tensor (B, C_l, H / s_l, W / s_l) per layer.

    Includes the normalisation by mean and std, and nothing after the last layer used. Class and register tokens of
    transformers are dropped; images for transformers are first resized to the nearest multiple of the patch size, e.g.
    from 256 px to 252 for patches of 14. `channels` and `strides` are C_l and s_l, in the order of the features.

    `net` maps images to a list or dictionary of features. `patch` is (height, width) in px of a transformer's patch.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, mean: Sequence[float], std: Sequence[float], patch: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.net, self.patch = net, patch
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.channels, self.strides = self._measure()

    @torch.no_grad()
    def frozen(self) -> Self:
        """Freezes the network and folds batch normalisation into the preceding convolutions.

        Features stay the same up to rounding, in a fifth less time. If they do not, because a convolution's output is
        itself a feature, nothing is folded.
        """
        self.requires_grad_(False).eval()
        original, image = self.net, torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
        expected, self.net = self(image), deepcopy(original).eval()  # the copy of an fx graph loses the mode
        fold([self.net], lambda: self(image))
        # untrained weights may overflow: NaN is no difference, so that folding depends on the network only
        pairs = zip(self(image), expected, strict=True)
        if any(float((new - old).abs().amax()) > 1e-3 * float(old.abs().amax()) for new, old in pairs):
            self.net = original
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.net((self._resized(image) - self.mean) / self.std)
        features = list(features.values()) if isinstance(features, dict) else list(features)
        if getattr(self.net, "output_fmt", None) == "NHWC":  # Swin and similar
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return features

    def _resized(self, image: Tensor) -> Tensor:
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
                f"The backbone's layers give {shapes}, and not maps of features: choose others. For transformers, give "
                "blocks by their numbers."
            )
        return tuple(f.shape[1] for f in features), tuple(256 // f.shape[2] for f in features)


def build(
    name: str,
    layers: Sequence[int | str] = (1, 2, 3),
    weights: str = "none",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    norm: bool = False,
) -> Backbone:
    """Builds a backbone by its name in timm.

    Args:
        name: Of a network, e.g. `resnet18.tv_in1k`, `convnext_atto`, `vit_small_patch14_dinov2.lvd142m`.
        layers: Indices of feature levels, names of modules, e.g. `blocks.3`, or both; the features come in the
            network's order. Levels are indices into timm's feature_info: level l has stride 2 ** (l + 1) in networks
            with a stem of stride 2 (ResNet, EfficientNet), twice that with a stem of stride 4 (ConvNeXt, Swin), and is
            block l of a vision transformer, counted from 0.
        weights: See `load_weights`, or a file of `save_cut`: a fine-tuned network after cutting.
        mean, std: Of the input in [0, 1]; default: those that the weights were trained with.
        norm: Whether to apply a vision transformer's final norm to each layer, for methods that compare tokens.
    """
    import timm

    layers = list(dict.fromkeys(layers))
    if not layers:
        raise UserError("backbone.layers names no feature level: give at least one.")
    cut = holds_cut(weights)
    make = partial(_levels, norm=norm) if all(isinstance(layer, int) for layer in layers) else _modules
    net, patch = make(name, layers, "none" if cut else weights)
    if norm and patch is None:
        raise UserError(
            f"backbone.norm=true needs a vision transformer with blocks by numbers, which '{name}' is not here."
        )
    pretrained = timm.get_pretrained_cfg(name)
    config = pretrained.to_dict() if pretrained else {}
    mean, std = mean or config.get("mean", IMAGENET_MEAN), std or config.get("std", IMAGENET_STD)
    try:
        backbone = Backbone(net, mean, std, patch)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"'{name}' takes images of one size only ({error}): use another network.") from error
    if cut:
        load_cut(net, weights)
    return backbone


def _levels(
    name: str, layers: Sequence[Any], weights: str, norm: bool = False
) -> tuple[nn.Module, tuple[int, int] | None]:
    """Cuts the network after numbered levels; also returns the patch size of a transformer."""
    import timm
    from timm.models._features import FeatureGetterNet

    try:
        net, sizes = _create(name, features_only=True, out_indices=tuple(sorted(layers)))
    except (AssertionError, IndexError) as error:
        last = len(getattr(_create(name)[0], "feature_info", ())) - 1
        raise UserError(
            f"'{name}' has no feature levels {list(layers)}, only 0 to {last}: choose others with backbone.layers."
        ) from error
    norm = norm and bool(sizes)
    if norm or weights != "none":
        model = timm.create_model(name, **sizes)
        load_weights(model, weights, name)
        if norm:
            net = FeatureGetterNet(model, tuple(sorted(layers)), norm=True)
        else:  # feature networks flatten some names (`stages.0` to `stages_0`)
            state = {key.replace(".", "_"): value for key, value in model.state_dict().items()}
            net.load_state_dict({key: state[key.removeprefix("model.").replace(".", "_")] for key in net.state_dict()})
    stages, blocks = (getattr(net, attribute, None) for attribute in ("_stage_out_idx", "blocks"))
    if stages and isinstance(blocks, nn.Sequential):
        net.blocks = blocks[: max(stages)]  # timm's EfficientNet features would run the rest, too
    patch = getattr(getattr(getattr(net, "model", net), "patch_embed", None), "patch_size", None)
    return net, tuple(patch) if sizes and patch else None


def _modules(name: str, layers: Sequence[int | str], weights: str) -> tuple[nn.Module, None]:
    """Cuts the network after named modules, which may lie between the numbered levels."""
    model, _ = _create(name)
    info = getattr(model, "feature_info", [])
    levels = [layer for layer in layers if isinstance(layer, int)]
    if wrong := [level for level in levels if not 0 <= level < len(info)]:
        raise UserError(f"'{name}' has no feature levels {wrong}, only 0 to {len(info) - 1}.")
    load_weights(model, weights, name)
    modules = [str(info[level]["module"]) for level in levels]
    return cut_at(model, [*modules, *(layer for layer in layers if isinstance(layer, str))], name), None


def _create(name: str, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Creates an untrained timm network; also returns the arguments that let it take images of any size."""
    import timm

    try:
        for sizes in ANY_SIZE[:-1]:
            try:
                return timm.create_model(name, **options, **sizes), sizes
            except TypeError:  # the network does not have this argument
                continue
        return timm.create_model(name, **options), {}
    except RuntimeError as error:
        suffix = " with features_only" if options else ""
        raise UserError(f"timm has no model '{name}'{suffix} ({error}). {similar(name, timm.list_models())}") from error


def cut_at(model: nn.Module, modules: Sequence[str], name: str) -> nn.Module:
    """Cuts a network after the last of `modules`; the result maps images to their outputs in order of computation.

    `name` is the network's, for messages. Raises UserError for modules that the network lacks or does not run, and for
    networks that torch.fx cannot trace.
    """
    from timm.models import create_feature_extractor, get_graph_node_names

    names = [module for module, _ in model.named_modules() if module]
    if unknown := [module for module in modules if module not in names]:
        raise UserError(_unknown(unknown[0], names, name))
    try:
        _, nodes = get_graph_node_names(model)
    except Exception as error:  # tracing runs the network's code and can raise anything
        hint = "give backbone.layers as numbers, or use another network."
        raise UserError(f"'{name}' cannot be cut at modules' names ({first_line(error)}): {hint}") from error
    last = {  # index of each module's last operation
        module: max((k for k, node in enumerate(nodes) if node == module or node.startswith(module + ".")), default=-1)
        for module in modules
    }
    if unused := [module for module, end in last.items() if end < 0]:
        raise UserError(f"'{name}' does not run {', '.join(unused)}: choose other backbone.layers.")
    ends = {end: module for module, end in last.items()}  # one module per end
    return create_feature_extractor(model, [ends[end] for end in sorted(ends)])


def _unknown(module: str, names: Sequence[str], name: str) -> str:
    parent = module.rpartition(".")[0]
    while parent and parent not in names:
        parent = parent.rpartition(".")[0]
    siblings = ", ".join([k for k in names if k.rpartition(".")[0] == parent][:20])
    missing = f"'{name}' has no module '{module}' for backbone.layers."
    return f"{missing} {similar(module, names)} In {parent or 'the network'}: {siblings}."
