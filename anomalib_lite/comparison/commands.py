"""The command that trains a setting again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from anomalib_lite.comparison.leaves import leaves
from anomalib_lite.comparison.record import Run
from anomalib_lite.conf_dir import conf_dir

# where things lie, which run of several it was, how it was tracked
NOT_SAID = ("seed", "paths", "tracking", "force", "experiment_name", "hydra", "run_name")
PLAIN = re.compile(r"[A-Za-z_./][\w./@%+-]*", re.ASCII)


def command(run: Run, factors: Sequence[str] = ()) -> str:
    """A line for a shell: the recorded overrides, or, of a run that recorded none, what its configuration tells.

    factors: names of settings that matter, for a run that recorded none.
    """
    overrides = run.overrides if run.overrides is not None else _rebuilt(run, factors)
    said = [o for o in overrides if re.split(r"[.@=/]", o.lstrip("+~"), maxsplit=1)[0] not in NOT_SAID]
    return " ".join(["anomalib-lite train", *map(shlex.quote, said)])


def hydra_value(value: Any) -> str:
    """A value as Hydra's grammar reads it back: null, true, 0.1, [a,b], {k:1}, 'with spaces and = signs'."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(hydra_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{hydra_value(str(k))}:{hydra_value(v)}" for k, v in value.items()) + "}"
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def _rebuilt(run: Run, factors: Sequence[str]) -> list[str]:
    """Options of groups, what differs from the data's own file, and single values; not what presets may have set."""
    train = yaml.safe_load((conf_dir() / "train.yaml").read_text())
    usual = {group: option for part in train["defaults"] if isinstance(part, dict) for group, option in part.items()}
    groups = sorted(run.choices, key=lambda group: (group != "data", group))
    said = [f"{g}={hydra_value(run.choices[g])}" for g in groups if usual.get(g, run.choices[g]) != run.choices[g]]
    flat = leaves(run.config)
    named = conf_dir() / "data" / f"{run.choices.get('data')}.yaml"
    own = {f"data.{k}": v for k, v in (yaml.safe_load(named.read_text()) if named.is_file() else {}).items()}
    single = {k: v for k, v in train.items() if not isinstance(v, dict | list)}
    for key, value in (own | single).items():
        if key in flat and flat[key] != value and not str(value).startswith("${"):
            said.append(f"{key}={hydra_value(flat[key])}")
    return said + [f"{key}={hydra_value(flat[key])}" for key in factors if key in flat and key not in run.choices]
