"""What can be set: each option's type, default, range and meaning, as Hydra's structured configs.

Files of conf/ begin with one of these (`defaults: [/schema/<class>@_here_]`) and hold what differs from it.
Whoever composes a configuration asks here where conf/ lies, so here the dataclasses become known to Hydra.
"""

import dataclasses
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from anomalib_lite.settings import data, detectors, training, verbs

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """Where the configuration lies: beside the package in a checkout, inside it once installed."""
    checkout = PACKAGE.parent / "conf"
    return checkout if (checkout / "train.yaml").is_file() else PACKAGE / "conf"


def family(option: str, group: str = "detector") -> str:
    """The option that a group's option is a variant of, by its defaults: `stfpm` of `stfpm_plain`; else itself."""
    file = conf_dir() / group / f"{option}.yaml"
    entries = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", []) if file.is_file() else []
    bases = [entry for entry in entries if isinstance(entry, str) and entry != "_self_" and not entry.startswith("/")]
    return family(bases[0], group) if bases else option


def _register() -> None:
    store = ConfigStore.instance()
    for room in (data, detectors, training, verbs):
        for name, kind in vars(room).items():
            if dataclasses.is_dataclass(kind):
                store.store(group="schema", name=name, node=kind)
    OmegaConf.register_new_resolver("anomalib_lite.family", family, replace=True)  # presets are looked up by family
    OmegaConf.register_new_resolver("anomalib_lite.score", lambda name: detectors.SCORES.get(name, "max"), replace=True)


_register()
