"""Converts values of any shape to Hydra overrides."""

import json
import math
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from anomalib_lite.errors import UserError

BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")  # strings that Hydra reads without quotes
PROGRAM = "anomalib-lite"
KEYWORDS = ("null", "true", "false", "nan", "inf")


def override(key: str, value: Any) -> str:
    """Returns one argument, from which Hydra reads the same JSON-like value with the same type.

    Raises UserError for keys within the value that Hydra's grammar does not allow.
    """
    return f"{key}={literal(value)}"


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Returns the arguments that set these values.

    Hydra merges a dictionary into the existing one, which is right for a part of a group. One that describes an object
    (`_target_`) must replace it, because the arguments of the old object do not fit the new one.
    """
    arguments = []
    for key, value in values.items():
        replaces = isinstance(value, Mapping) and "_target_" in value
        arguments += [override(key, None)] * replaces + [override(key, value)]
    return arguments


def literal(value: Any) -> str:
    """Formats a value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        if invalid := [key for key in value if isinstance(key, str) and not BARE.fullmatch(key)]:
            raise UserError(
                f"'{invalid[0]}' cannot be a key within a value on Hydra's command line: use letters, digits and _."
            )
        return "{" + ",".join(f"{k}:{literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(literal(v) for v in value) + "]"
    text = str(value)
    if BARE.fullmatch(text) and text.lower() not in KEYWORDS:
        return text
    return QuotedString(text, Quote.single).with_quotes()


def command_line(words: Sequence[str]) -> str:
    """Quotes words for a shell, with double quotes around Hydra's single quotes."""
    return " ".join(f'"{w}"' if "'" in w and not set(w) & set('"$`\\!\n') else shlex.quote(w) for w in words)


def expand_json(arguments: Sequence[str], groups: Collection[str]) -> list[str]:
    """Replaces arguments that are JSON objects by overrides, one for each key.

    W&B's agent passes parameters as `key=<Python's repr>`, which is ambiguous for None, strings, dictionaries, and
    values with a space or `=`; with `${args_json}` it passes JSON. A dictionary under the name of a configuration group
    holds settings of the group, because the group itself is chosen by the name of an option.
    """
    expanded = []
    for argument in arguments:
        if not argument.startswith("{"):
            expanded.append(argument)
            continue
        try:
            values = json.loads(argument)
        except json.JSONDecodeError as error:
            raise UserError(f"An argument in braces must be JSON ({error}): {argument}") from None
        parameters: dict[str, Any] = {}
        for key, value in values.items():
            nested = key in groups and isinstance(value, Mapping)
            parameters |= {f"{key}.{inner}": v for inner, v in value.items()} if nested else {key: value}
        expanded += overrides(parameters)
    return expanded


def flat(values: Mapping[str, Any], separator: str = "/", prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings, joining their keys; lists and empty mappings count as values."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        inner = isinstance(value, Mapping) and value
        result |= flat(value, separator, f"{name}{separator}") if inner else {name: value}
    return result
