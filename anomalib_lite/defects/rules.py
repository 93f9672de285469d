"""Determines a defect's type, severity and grade by rules over its measures, and checks these rules."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from anomalib_lite.defects.layout import BUILT_IN
from anomalib_lite.defects.measures import UNITS, Values
from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import Defects, DefectType, Severity, Term

GRADES = ("minor", "major", "critical")
_SCALE = 0.25  # temperature of the softmax over points


def classify(types: Mapping[str, DefectType], shares: Mapping[str, float], measures: Values) -> tuple[str, float]:
    """Returns the type with most points, the first one in case of ties, and the confidence in it, in (0, 1].

    The confidence is a softmax over the points, at a temperature of 0.25. shares: share of the defect in each area.
    """
    points = {name: _points(rule, shares, measures) for name, rule in types.items()}
    best = max(points, key=points.__getitem__)
    return best, 1 / sum(math.exp((other - points[best]) / _SCALE) for other in points.values())


def _points(rule: DefectType, shares: Mapping[str, float], measures: Values) -> float:
    """Sums the points of a type's areas and measures, as in `DefectType`; measures that do not apply give none."""
    by_measure = 0.0
    for name, evidence in rule.evidence.items():
        if (value := measures.get(name)) is not None:
            share = (value - evidence.zero) / (evidence.full - evidence.zero)
            by_measure += evidence.points * min(max(share, 0.0), 1.0)
    return sum(points * shares.get(area, 0.0) for area, points in rule.areas.items()) + by_measure


def severity_of(settings: Severity, kind: str, measures: Values) -> float:
    """Computes a type's severity in [0, 1], see `Severity`.

    Measures that do not apply count as 0, so that severities of one type stay comparable.
    """
    terms = settings.by_type.get(kind) or settings.measures
    total = 0.0
    for name, term in terms.items():
        size = max(0.0, float(measures.get(name) or 0.0))
        total += term.weight * size / (size + term.half)
    return total / sum(term.weight for term in terms.values())


def grade_of(settings: Severity, severity: float) -> str:
    return GRADES[sum(severity >= cut for cut in (settings.major_from, settings.critical_from))]


def accepts(settings: Severity, grades: Sequence[str]) -> bool:
    """Whether a product with defects of these grades is accepted."""
    ranks = [GRADES.index(grade) for grade in grades]
    return not any(
        limit is not None and sum(rank >= GRADES.index(grade) for rank in ranks) >= limit
        for grade, limit in settings.reject.items()
    )


def read_settings(config: Mapping[str, Any]) -> Defects:
    """Reads and checks settings given as plain values, as in conf/defects; sets missing titles of types.

    Raises UserError for unknown keys, areas, measures and types, listing the valid ones, and for contradictory values.
    """
    settings = _filled(Defects, config, "defects")
    for kind, terms in settings.severity.by_type.items():  # OmegaConf does not convert nested dictionaries
        where = f"defects.severity.by_type.{kind}"
        terms.update({name: _filled(Term, term, f"{where}.{name}") for name, term in terms.items()})
    _check_types(settings)
    _check_severity(settings.severity, settings.types)
    if (zone := settings.regions.zone) > (core := settings.regions.core):
        raise UserError(f"defects.regions needs zone <= core, but has {zone} and {core}.")
    for name, rule in settings.types.items():
        rule.title = rule.title or name.replace("_", " ")
    return settings


def _filled(kind: type, value: Any, where: str) -> Any:
    """Converts plain values to a dataclass of the settings. Raises UserError for values that do not fit."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), value))
    except OmegaConfBaseException as error:
        valid = ", ".join(field.name for field in fields(error.object_type)) if is_dataclass(error.object_type) else ""
        hint = f" There are: {valid}." if valid and isinstance(error, ConfigKeyError) else ""
        raise UserError(f"{where}.{error.full_key}: {str(error).splitlines()[0]}.{hint}") from error


def _check_types(settings: Defects) -> None:
    if not settings.types:
        raise UserError("defects.types is empty: add at least one type, or switch defects off with defects=none.")
    for name, rule in settings.types.items():
        where = f"defects.types.{name}"
        _check_names(rule.areas, dict.fromkeys((*BUILT_IN, *settings.layout.areas)), where, "area")
        _check_names(rule.evidence, UNITS, where, "measure")
        if any(evidence.zero == evidence.full for evidence in rule.evidence.values()):
            raise UserError(f"{where}: zero and full of a measure's evidence must differ.")
        if not re.fullmatch("#[0-9a-fA-F]{6}", rule.colour):
            raise UserError(f"{where}.colour must be of the form '#2f6fb0', not {rule.colour!r}.")
    _check_names(settings.names.values(), settings.types, "defects.names", "type")


def _check_severity(severity: Severity, types: Iterable[str]) -> None:
    _check_names(severity.by_type, types, "defects.severity.by_type", "type")
    for name in types:
        terms = severity.by_type.get(name) or severity.measures
        _check_names(terms, UNITS, f"The severity of {name}", "measure")
        if not terms:
            raise UserError(f"The severity of {name} needs at least one measure.")
    if (major := severity.major_from) > (critical := severity.critical_from):
        raise UserError(f"defects.severity needs major_from <= critical_from, but has {major} and {critical}.")
    _check_names(severity.reject, GRADES, "defects.severity.reject", "grade")
    if any(count is not None and count < 1 for count in severity.reject.values()):
        raise UserError("defects.severity.reject takes whole numbers, 1 or more, or null.")


def _check_names(given: Iterable[str], valid: Iterable[str], where: str, what: str) -> None:
    if unknown := [str(key) for key in given if key not in valid]:
        raise UserError(f"{where} has no {what} {', '.join(unknown)}. There are: {', '.join(valid)}.")
