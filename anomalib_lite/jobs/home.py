"""`~`, the home folder, in the values that a user gives: shells leave it in `key=~/folder` as it is."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from omegaconf import DictConfig, ListConfig, OmegaConf

# at the beginning of a value, or of one in a list or in a sweep
TILDE = re.compile(r"""(?:^|(?<=[,\[\s'"]))~(?=/|$|[,\]\s'"])""")

# registered where jobs of a launcher's other processes find it, too
OmegaConf.register_new_resolver("anomalib_lite.home", os.path.expanduser, replace=True)


def expand_arguments(arguments: Sequence[str]) -> list[str]:
    """Of the command line, before Hydra, whose grammar knows no unquoted `~`."""
    home = os.path.expanduser("~")
    return [re.sub(r"(?<==).*", lambda value: TILDE.sub(lambda _: home, value[0]), a, count=1) for a in arguments]


def expand_values(cfg: DictConfig | ListConfig) -> None:
    """Of a configuration, in place: those that come from files."""
    for key in range(len(cfg)) if isinstance(cfg, ListConfig) else list(cfg):
        node = cfg._get_node(key)
        value = node._value()
        if isinstance(node, (DictConfig, ListConfig)):
            if not (node._is_none() or node._is_missing() or node._is_interpolation()):
                expand_values(node)
        elif isinstance(value, str) and (value == "~" or value.startswith("~/")):
            cfg[key] = os.path.expanduser(value)
