"""How a run was asked for: the option of each config group, and the overrides."""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig


def chosen() -> dict[str, Any]:
    """`choices` (group -> option, None where a group has none) and `overrides`, as one writes them; Hydra's own left
    out.
    """
    hydra = HydraConfig.get()
    choices = {group: option for group, option in hydra.runtime.choices.items() if "hydra/" not in group}
    plain = {group: option for group, option in choices.items() if "@" not in group}
    return {"choices": plain, "overrides": list(hydra.overrides.task)}
