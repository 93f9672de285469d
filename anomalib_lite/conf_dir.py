"""Where the configuration lies: beside the package in a checkout, inside it once installed."""

from __future__ import annotations

from pathlib import Path

import yaml
from omegaconf import OmegaConf

PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    checkout = PACKAGE.parent / "conf"
    return checkout if (checkout / "train.yaml").is_file() else PACKAGE / "conf"


def family(option: str, group: str = "detector") -> str:
    """The option that a group's option is a variant of, by its defaults: `stfpm` of `stfpm_plain`; else itself."""
    file = conf_dir() / group / f"{option}.yaml"
    entries = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", []) if file.is_file() else []
    bases = [entry for entry in entries if isinstance(entry, str) and entry != "_self_" and not entry.startswith("/")]
    return family(bases[0], group) if bases else option


# here, where everyone who composes passes by: presets are looked up by family
OmegaConf.register_new_resolver("anomalib_lite.family", family, replace=True)
