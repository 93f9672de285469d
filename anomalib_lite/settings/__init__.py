"""What can be set: each option's type, default, range and meaning, as Hydra's structured configs.

Files of conf/ begin with one of these (`defaults: [/schema/<group>/<name>@_here_]`) and hold what differs from it.
"""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from anomalib_lite.settings import data, detectors, training, verbs


def register() -> None:
    """Makes the dataclasses known to Hydra, below the group `schema`."""
    store = ConfigStore.instance()
    for name, verb in verbs.VERBS.items():
        store.store(group="schema", name=name, node=verb)
    for group, options in (data.OPTIONS | detectors.OPTIONS | training.OPTIONS).items():
        for name, option in options.items():
            store.store(group=f"schema/{group}", name=name, node=option)
