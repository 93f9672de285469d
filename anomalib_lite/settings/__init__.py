"""All options: type, default, range and help text, as Hydra's structured configs.

Files in conf/ start from one of these dataclasses (`defaults: [/schema/<class>@_here_]`) and list what differs.
Importing this package registers the dataclasses with Hydra.
"""

import dataclasses
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from anomalib_lite.settings import data, detectors, training, verbs

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """Returns the folder conf/: beside the package in a checkout, inside the package when installed."""
    checkout = PACKAGE.parent / "conf"
    return checkout if (checkout / "train.yaml").is_file() else PACKAGE / "conf"


def family(option: str, group: str = "detector") -> str:
    """Returns the option that a variant is based on by its defaults list, as `stfpm` for `stfpm_plain`, or itself."""
    file = conf_dir() / group / f"{option}.yaml"
    entries = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", []) if file.is_file() else []
    bases = [entry for entry in entries if isinstance(entry, str) and entry != "_self_" and not entry.startswith("/")]
    return family(bases[0], group) if bases else option


def _register() -> None:
    store = ConfigStore.instance()
    for module in (data, detectors, training, verbs):
        for name, kind in vars(module).items():
            if dataclasses.is_dataclass(kind):
                store.store(group="schema", name=name, node=kind)
    OmegaConf.register_new_resolver("anomalib_lite.family", family, replace=True)  # selects presets
    OmegaConf.register_new_resolver("anomalib_lite.score", lambda name: detectors.SCORES.get(name, "max"), replace=True)


_register()
