"""Values of any shape as Hydra overrides, and back."""

import json
import math
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from anomalib_lite.errors import UserError

BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")  # strings that Hydra reads as they are
PROGRAM = "anomalib-lite"
KEYWORDS = ("null", "true", "false", "nan", "inf")


def override(key: str, value: Any) -> str:
    """`key=value` as one argument, from which Hydra reads the same value of the same type.

    value: what JSON holds, of any depth. Errors: UserError for a key within a value that Hydra cannot read.
    """
    return f"{key}={literal(value)}"


def overrides(values: Mapping[str, Any]) -> list[str]:
    """The arguments that give these values to a training.

    Hydra merges a dictionary into the one that is there, which is right for part of a group; one that describes an
    object (`_target_`) replaces it, since another object's arguments must not stay behind.
    """
    arguments = []
    for key, value in values.items():
        if isinstance(value, Mapping) and "_target_" in value:
            arguments += [override(key, None), override(key, value)]
        else:
            arguments.append(override(key, value))
    return arguments


def literal(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        if odd := [key for key in value if isinstance(key, str) and not BARE.fullmatch(key)]:
            raise UserError(
                f"'{odd[0]}' cannot be a key within a value on Hydra's command line: letters, digits and _ can."
            )
        return "{" + ",".join(f"{k}:{literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(literal(v) for v in value) + "]"
    text = str(value)
    if BARE.fullmatch(text) and text.lower() not in KEYWORDS:
        return text
    return QuotedString(text, Quote.single).with_quotes()


def command_line(words: Sequence[str]) -> str:
    """As one types it into a shell; double quotes where Hydra's own are single ones."""
    return " ".join(f'"{w}"' if "'" in w and not set(w) & set('"$`\\!\n') else shlex.quote(w) for w in words)


def expand_json(arguments: Sequence[str], groups: Collection[str]) -> list[str]:
    """Arguments that are JSON objects become overrides, one for each key; the others stay.

    W&B's agent hands on parameters as `key=<Python's repr>`, which loses what None, strings, dictionaries and all that
    holds a space or `=` are; as `${args_json}` they come whole. groups: the config groups' names; a dictionary under
    such a name holds nested parameters, since a group's own value is the name of an option.
    """
    expanded = []
    for argument in arguments:
        if not argument.startswith("{"):
            expanded.append(argument)
            continue
        try:
            values = json.loads(argument)
        except json.JSONDecodeError as error:
            raise UserError(f"Not JSON, which an argument in braces must be ({error}): {argument}") from None
        given: dict[str, Any] = {}
        for key, value in values.items():
            nested = key in groups and isinstance(value, Mapping)
            given |= {f"{key}.{inner}": v for inner, v in value.items()} if nested else {key: value}
        expanded += overrides(given)
    return expanded


def flat(values: Mapping[str, Any], separator: str = "/", prefix: str = "") -> dict[str, Any]:
    """Name -> value, the keys on the way to it joined; a list, or a mapping that holds nothing, is one value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        inner = isinstance(value, Mapping) and value
        found |= flat(value, separator, f"{name}{separator}") if inner else {name: value}
    return found
