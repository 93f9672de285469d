"""What a configuration says about defects, checked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from anomalib_lite.defects.extent import ExtentConfig
from anomalib_lite.defects.layout import BUILT_IN, LayoutConfig
from anomalib_lite.defects.regions import RegionConfig
from anomalib_lite.defects.severity import SeverityRules, read_severity
from anomalib_lite.defects.types import TypeRule, read_types
from anomalib_lite.errors import UserError

T = TypeVar("T")
KEYS = ("regions", "extent", "layout", "alignment", "scale_mm_per_px", "types", "severity", "names")


@dataclass(frozen=True)
class DefectSettings:
    """scale_mm_per_px: of the photographs as they lie on disk, or None. names: data set's defect name -> type."""

    types: tuple[TypeRule, ...]
    severity: SeverityRules
    regions: RegionConfig = field(default_factory=RegionConfig)
    extent: ExtentConfig = field(default_factory=ExtentConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    alignment: str = "affine"
    scale_mm_per_px: float | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def type_named(self, name: str) -> TypeRule:
        return next(rule for rule in self.types if rule.name == name)


def read_settings(config: Mapping[str, Any]) -> DefectSettings:
    """From plain values, as conf/defects holds them.

    Errors: UserError for unknown keys, areas, measures and types, naming the valid ones, and for values out of range.
    """
    unknown = set(config) - set(KEYS)
    if unknown:
        raise UserError(f"defects has no setting {', '.join(sorted(unknown))}. There are: {', '.join(KEYS)}.")
    layout = _filled(LayoutConfig, config.get("layout"), "defects.layout")
    areas = (*BUILT_IN, *(name for name in layout.areas if name not in BUILT_IN))
    types = read_types(config.get("types") or {}, areas)
    names = [rule.name for rule in types]
    mapped = dict(config.get("names") or {})
    wrong = set(mapped.values()) - set(names)
    if wrong:
        raise UserError(f"defects.names maps to no type {', '.join(sorted(wrong))}. There are: {', '.join(names)}.")
    scale = config.get("scale_mm_per_px")
    if scale is not None and not float(scale) > 0:
        raise UserError(f"defects.scale_mm_per_px must be above 0, or null, not {scale}.")
    return DefectSettings(
        types,
        read_severity(config.get("severity") or {}, names),
        _filled(RegionConfig, config.get("regions"), "defects.regions"),
        _filled(ExtentConfig, config.get("extent"), "defects.extent"),
        layout,
        str(config.get("alignment", "affine")),
        None if scale is None else float(scale),
        mapped,
    )


def _filled(kind: type[T], values: Mapping[str, Any] | None, where: str) -> T:
    valid = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = set(values or {}) - set(valid)
    if unknown:
        raise UserError(f"{where} has no setting {', '.join(sorted(unknown))}. There are: {', '.join(valid)}.")
    return kind(**{key: value for key, value in (values or {}).items() if value is not None})
