"""One place for each option: its type, its default, the values it takes, and what it means.

The dataclasses of this room are Hydra's structured configs. Hydra refuses a value of another type when it composes;
`check` refuses one out of range before anything runs; `explain` writes what `--help` shows.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from anomalib_lite.errors import UserError

SMALLEST = 16  # px of an image's side
WIDTH = 44  # of the column of values in --help


def setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    rule: Callable[[Any], str] | None = None,
) -> Any:
    """A dataclass field with what a user needs to know of it.

    Args:
        default: its value, or a dataclass or function that makes it. Each configuration gets a copy of its own of a
            list or dictionary.
        help: one line, with the unit.
        least, most: bounds that it may take, of a list those of each element.
        above, below: bounds that it may not take.
        choices: the only words that it may be.
        rule: says what a value would have to be, or nothing where it is that.
    """
    bounds = {"least": least, "most": most, "above": above, "below": below}
    metadata = {
        "help": help,
        "choices": tuple(choices),
        "rule": rule,
        **{k: v for k, v in bounds.items() if v is not None},
    }
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: default.copy(), metadata=metadata)
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check(cfg: DictConfig) -> None:
    """Checks every value against the bounds of its field. Empty values, as from an unset shell variable, are rejected:
    an empty path would mean the current folder.

    Errors: UserError that names the option, what it may be, and what it is.
    """
    for name, value, field in _fields(cfg):
        rule = field.metadata["rule"] or partial(_violated, field.metadata)
        if value == "" or (value == [] and field.default not in (None, dataclasses.MISSING)):
            raise UserError(f"{name} is empty: give it a value, or leave it out.")
        several = isinstance(value, ListConfig) and not field.metadata["rule"]
        for one in value if several else [value]:
            if one is not None and (wanted := rule(one)):
                raise UserError(f"{name} must be {wanted}, not {one!r}.")


def pixels(value: Any) -> str:
    """The rule of an image's size."""
    sides = value if isinstance(value, ListConfig) else [value, value]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side >= SMALLEST for side in sides)
    return "" if len(sides) == 2 and whole else f"a whole number of px, {SMALLEST} or more, or [height, width]"


def pixels_or_native(value: Any) -> str:
    """The rule of a training's image size."""
    if value == "native":
        return ""
    return pixels(value) and f"{pixels(value)}, or native"


def explain(cfg: DictConfig) -> str:
    """The configuration as YAML, with each field's help beside its value."""
    helps = {name: _help(field) for name, _, field in _fields(cfg, resolve=False)}
    lines: list[str] = []
    stack: list[str] = []
    for line in OmegaConf.to_yaml(cfg).splitlines():
        key, colon, _ = line.partition(":")
        depth = (len(line) - len(line.lstrip())) // 2
        if colon and not line.lstrip().startswith("- "):
            stack = [*stack[:depth], key.strip()]
            if told := helps.get(".".join(stack)):
                line = f"{line:{WIDTH}}  # {told}"
        lines.append(line)
    return "\n".join(lines)


def _fields(cfg: Any, prefix: str = "", resolve: bool = True) -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Every option that a dataclass describes: its full name, its value and its field."""
    if not isinstance(cfg, DictConfig) or cfg._is_none() or cfg._is_missing():
        return
    kind = OmegaConf.get_type(cfg)
    described = {f.name: f for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
    for key in cfg:
        node: Any = cfg._get_node(key)
        name = prefix + str(key)
        if key in described and "help" in described[key].metadata:
            referred = OmegaConf.is_missing(cfg, key) or node._is_interpolation()  # checked where it stands
            yield name, cfg[key] if resolve and not referred else None, described[key]
        if isinstance(node, DictConfig) and not node._is_interpolation():
            yield from _fields(node, f"{name}.", resolve)


def _violated(rules: Mapping[str, Any], value: Any) -> str:
    """What the value would have to be, or nothing where it is that."""
    if rules["choices"]:
        return "" if value in rules["choices"] else f"one of {', '.join(rules['choices'])}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    inside = (
        value >= rules.get("least", value)
        and value <= rules.get("most", value)
        and ("above" not in rules or value > rules["above"])
        and ("below" not in rules or value < rules["below"])
    )
    return "" if inside else _range(rules)


def _range(rules: Mapping[str, Any]) -> str:
    if "least" in rules and "most" in rules:
        return f"{rules['least']:.10g} to {rules['most']:.10g}"
    words = {"least": "{:.10g} or more", "above": "above {:.10g}", "most": "at most {:.10g}", "below": "below {:.10g}"}
    return " and ".join(text.format(rules[key]) for key, text in words.items() if key in rules)


def _help(field: dataclasses.Field[Any]) -> str:
    rules = field.metadata
    told = " | ".join(rules["choices"]) or _range(rules)
    return f"{rules['help']} ({told})" if told else str(rules["help"])
