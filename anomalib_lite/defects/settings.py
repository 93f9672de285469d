"""What a configuration says about defects, checked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from anomalib_lite.defects.layout import BUILT_IN, LayoutConfig
from anomalib_lite.defects.measures import UNITS
from anomalib_lite.defects.regions import ExtentConfig, RegionConfig
from anomalib_lite.defects.rules import Severity, TypeRule
from anomalib_lite.errors import UserError


@dataclass(frozen=True)
class DefectSettings:
    """alignment: of the good product with each picture: none, translation, euclidean or affine. scale_mm_per_px: of the
    photographs as they lie on disk, or None. names: the data set's name of a defect -> its type.
    """

    types: dict[str, TypeRule]
    severity: Severity
    regions: RegionConfig = field(default_factory=RegionConfig)
    extent: ExtentConfig = field(default_factory=ExtentConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    alignment: str = "affine"
    scale_mm_per_px: float | None = None
    names: dict[str, str] = field(default_factory=dict)


def read_settings(config: Mapping[str, Any]) -> DefectSettings:
    """From plain values, as conf/defects holds them.

    Errors: UserError for unknown keys, areas, measures and types, naming the valid ones, and for values out of range.
    """
    settings = _filled(DefectSettings, {"severity": {}, "types": {}} | dict(config), "defects")
    areas = dict.fromkeys((*BUILT_IN, *settings.layout.areas))
    if not settings.types:
        raise UserError("defects.types is empty: name at least one type, or leave the defects out with defects=none.")
    for name, rule in settings.types.items():
        _known(rule.areas, areas, f"defects.types.{name}", "area")
        _known(rule.evidence, UNITS, f"defects.types.{name}", "measure")
        terms = settings.severity.terms(name)
        _known(terms, UNITS, f"The severity of {name}", "measure")
        if not terms:
            raise UserError(f"The severity of {name} needs at least one measure.")
    _known(settings.severity.by_type, settings.types, "defects.severity.by_type", "type")
    _known(settings.names.values(), settings.types, "defects.names", "type")
    if settings.scale_mm_per_px is not None and settings.scale_mm_per_px <= 0:
        raise UserError(f"defects.scale_mm_per_px must be above 0, or null, not {settings.scale_mm_per_px}.")
    types = {
        name: dataclasses.replace(rule, name=name, title=rule.title or name.replace("_", " "))
        for name, rule in settings.types.items()
    }
    return dataclasses.replace(settings, types=types)


def _filled(kind: Any, value: Any, where: str) -> Any:
    """A plain value as what a field is annotated with: a dataclass, a dictionary of them, or a number."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints, fields = get_type_hints(kind), dataclasses.fields(kind)
        given = {key: part for key, part in (value or {}).items() if part is not None}
        _known(value or {}, hints, where, "setting")
        needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
        if missing := [name for name in needed if name not in given]:
            raise UserError(f"{where} needs {', '.join(needed)}; {', '.join(missing)} is not given.")
        return kind(**{key: _filled(hints[key], part, f"{where}.{key}") for key, part in given.items()})
    if get_origin(kind) is dict:
        return {key: _filled(get_args(kind)[1], part, f"{where}.{key}") for key, part in (value or {}).items()}
    if kind is float or kind == float | None:
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where} must be a number, not {value!r}.") from error
    return value


def _known(given: Iterable[str], valid: Iterable[str], where: str, what: str) -> None:
    unknown: Sequence[str] = [str(key) for key in given if key not in valid]
    if unknown:
        raise UserError(f"{where} has no {what} {', '.join(unknown)}. There are: {', '.join(valid)}.")
