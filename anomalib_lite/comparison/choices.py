"""Which option of each config group a run had."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# What the names of run folders leave out, from before runs recorded their choices.
UNNAMED = {"mode": "no_template", "augment": "none", "generator": "none", "teacher": "frozen", "tta": "none"}
# Not what a result is explained by: its data are a block of their own, and an experiment is a set of other choices.
NO_FACTORS = ("data", "experiment", "tracking")


def choices_of(name: str, environment: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Group -> option, as recorded in environment.json, or as far as the folder's name tells."""
    recorded = environment.get("choices")
    choices = dict(recorded) if isinstance(recorded, Mapping) else from_name(name)
    backbone = config.get("backbone")
    if choices.get("backbone") == "timm" and isinstance(backbone, Mapping) and backbone.get("name"):
        choices["backbone"] = str(backbone["name"])
    return {group: str(option) for group, option in choices.items() if option is not None}


def from_name(name: str) -> dict[str, str]:
    """Of <data>[-<category>]-<detector>-<backbone>[-<group>_<option> ...]-s<seed>-<hash>; nothing of another name."""
    named = re.fullmatch(r"(.+)-s[^-]*-[0-9a-f]{10}", name)
    parts = named[1].split("-") if named else []
    choices = dict(UNNAMED)
    while parts and (group := parts[-1].partition("_")[0]) in UNNAMED:
        choices[group] = parts.pop().partition("_")[2]
    if len(parts) < 3:
        return {}
    return choices | {"data": parts[0], "detector": parts[-2], "backbone": parts[-1]}
