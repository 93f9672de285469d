"""Declares options with type, default, range and help text as fields of dataclasses (Hydra's structured configs).

Hydra rejects values of a wrong type when it composes a configuration, `check` rejects values out of range before a
command starts, and `explain` writes the text of `--help`.
"""

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from anomalib_lite.errors import UserError

SMALLEST = 16  # smallest side of an image in px
WIDTH = 44  # characters of the values' column in --help
BOUNDS = {  # name -> what holds within it, and how it is written
    "least": (operator.ge, "{:.10g} or more"), "above": (operator.gt, "above {:.10g}"),
    "most": (operator.le, "at most {:.10g}"), "below": (operator.lt, "below {:.10g}"),
}  # fmt: skip
MOTIONS = ("affine", "euclidean", "translation", "none")  # of an alignment


def setting(
    default: Any,
    text: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    rule: Callable[[Any], str] | None = None,
) -> Any:
    """Declares a dataclass field with its default (or what makes it), its line of --help, and its valid range.

    Bounds are inclusive (least, most) or exclusive (above, below); for a list they hold for each element. `rule`
    describes the valid values if a value is invalid, and returns "" if it is valid.
    """
    bounds = {"least": least, "most": most, "above": above, "below": below}
    metadata: dict[str, Any] = {"help": text, "choices": tuple(choices), "rule": rule}
    metadata |= {name: bound for name, bound in bounds.items() if bound is not None}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def choice(text: str, *words: str) -> Any:
    """Declares a field that holds one of the words, by default the first."""
    return setting(words[0], text, choices=words)


def check(cfg: DictConfig) -> None:
    """Checks every value against the range of its field; raises UserError with the option, valid values and value.

    Empty values, as from an unset shell variable, are rejected: an empty path would mean the current folder.
    """
    for name, value, field in _fields(cfg):
        rule = field.metadata["rule"] or partial(_violated, field.metadata)
        if value == "" or (value == [] and field.default not in (None, dataclasses.MISSING)):
            raise UserError(f"{name} is empty: give it a value, or leave it out.")
        several = isinstance(value, ListConfig) and not field.metadata["rule"]
        for one in value if several else [value]:
            if one is not None and (valid := rule(one)):
                raise UserError(f"{name} must be {valid}, not {one!r}.")


def pixels(value: Any) -> str:
    """Rule for an image size, see `setting`."""
    sides = value if isinstance(value, ListConfig) else [value, value]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side >= SMALLEST for side in sides)
    return "" if len(sides) == 2 and whole else f"a whole number of px, {SMALLEST} or more, or [height, width]"


def pixels_or_native(value: Any) -> str:
    """Rule for a training's image size."""
    return "" if value == "native" else pixels(value) and f"{pixels(value)}, or native"


def explain(cfg: DictConfig) -> str:
    """Returns the configuration as YAML with help texts as comments."""
    helps = {name: _help(field.metadata) for name, _, field in _fields(cfg, resolve=False)}
    lines: list[str] = []
    stack: list[str] = []
    for line in OmegaConf.to_yaml(cfg).splitlines():
        key, colon, _ = line.partition(":")
        depth = (len(line) - len(line.lstrip())) // 2
        if colon and not line.lstrip().startswith("- "):
            stack = [*stack[:depth], key.strip()]
            if comment := helps.get(".".join(stack)):
                line = f"{line:{WIDTH}}  # {comment}"
        lines.append(line)
    return "\n".join(lines)


def _fields(cfg: Any, prefix: str = "", resolve: bool = True) -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Yields full name, value and field of every option that a dataclass declares."""
    if not isinstance(cfg, DictConfig) or cfg._is_none() or cfg._is_missing():
        return
    kind = OmegaConf.get_type(cfg)
    described = {f.name: f for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
    for key in cfg:
        node: Any = cfg._get_node(key)
        name = prefix + str(key)
        if key in described and "help" in described[key].metadata:
            skip = OmegaConf.is_missing(cfg, key) or node._is_interpolation()  # the option it refers to is checked
            yield name, cfg[key] if resolve and not skip else None, described[key]
        if isinstance(node, DictConfig) and not node._is_interpolation():
            yield from _fields(node, f"{name}.", resolve)


def _violated(rules: Mapping[str, Any], value: Any) -> str:
    """Describes the valid values if the value is invalid; "" if it is valid."""
    if rules["choices"]:
        return "" if value in rules["choices"] else f"one of {', '.join(rules['choices'])}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    return "" if all(fits(value, rules[name]) for name, (fits, _) in BOUNDS.items() if name in rules) else _range(rules)


def _range(rules: Mapping[str, Any]) -> str:
    if "least" in rules and "most" in rules:
        return f"{rules['least']:.10g} to {rules['most']:.10g}"
    return " and ".join(text.format(rules[name]) for name, (_, text) in BOUNDS.items() if name in rules)


def _help(rules: Mapping[str, Any]) -> str:
    values = " | ".join(rules["choices"]) or _range(rules)
    return f"{rules['help']} ({values})" if values else str(rules["help"])
