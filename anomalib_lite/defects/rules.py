"""The types that a defect can have, by rules over its measures, and how rules are read from a configuration."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from anomalib_lite.defects.layout import BUILT_IN, LayoutConfig
from anomalib_lite.defects.measures import UNITS
from anomalib_lite.defects.regions import ExtentConfig, RegionConfig
from anomalib_lite.errors import UserError

GRADES = ("minor", "major", "critical")
_SCALE = 0.25  # difference of points that counts as a factor e in the confidence

Measures = Mapping[str, float | int | None]


@dataclass(frozen=True)
class Evidence:
    """Points for a measure: none up to `zero`, all from `full` on, in proportion between; `zero` may be the larger."""

    zero: float
    full: float
    points: float

    def __post_init__(self) -> None:
        if self.zero == self.full:
            raise UserError(f"The evidence of a type needs zero and full to differ; both are {self.full}.")

    def given_by(self, value: float | int | None) -> float:
        """A measure that could not be taken, None, is no evidence."""
        share = 0.0 if value is None else (value - self.zero) / (self.full - self.zero)
        return self.points * min(max(share, 0.0), 1.0)


@dataclass(frozen=True)
class TypeRule:
    """areas: points for lying in an area, in proportion to the share of the defect that does. evidence: by measure."""

    name: str = ""
    title: str = ""
    colour: str = "#6f7680"
    areas: dict[str, float] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch("#[0-9a-fA-F]{6}", self.colour):
            raise UserError(f"The colour of a type must be of the form '#2f6fb0', not {self.colour!r}.")

    def points(self, shares: Mapping[str, float], measures: Measures) -> float:
        by_area = sum(points * shares.get(area, 0.0) for area, points in self.areas.items())
        return by_area + sum(evidence.given_by(measures.get(name)) for name, evidence in self.evidence.items())


def classify(rules: Sequence[TypeRule], shares: Mapping[str, float], measures: Measures) -> tuple[TypeRule, float]:
    """The rule with most points, and the confidence in it in (0, 1]: the softmax of the points over a quarter of one.

    shares: how much of the defect lies in each area. Of equal points the rule that is listed first wins.
    """
    points = [rule.points(shares, measures) for rule in rules]
    best = max(range(len(rules)), key=lambda i: (points[i], -i))
    return rules[best], 1 / sum(math.exp((other - points[best]) / _SCALE) for other in points)


@dataclass(frozen=True)
class Term:
    """A measure's part: m / (m + half), which is 0 at 0, 1/2 at `half`, and comes near 1; with its weight."""

    half: float
    weight: float

    def part(self, value: float | int | None) -> float:
        size = 0.0 if value is None else max(0.0, float(value))
        return self.weight * size / (size + self.half)


@dataclass(frozen=True)
class Severity:
    """measures: the terms of all types but those in `by_type`. major_from, critical_from: where these grades begin.
    reject: for a grade, how many defects of it, or of a worse one, reject a product; None: none do.
    """

    measures: dict[str, Term] = field(default_factory=dict)
    by_type: dict[str, dict[str, Term]] = field(default_factory=dict)
    major_from: float = 0.35
    critical_from: float = 0.6
    reject: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(GRADES, 1))

    def __post_init__(self) -> None:
        if not 0 < self.major_from <= self.critical_from <= 1:
            cuts = f"{self.major_from} and {self.critical_from}"
            raise UserError(f"defects.severity needs 0 < major_from <= critical_from <= 1, not {cuts}.")
        for grade, count in self.reject.items():
            if grade not in GRADES or (count is not None and (not isinstance(count, int) or count < 1)):
                raise UserError(f"defects.severity.reject: grades are {', '.join(GRADES)}, numbers 1 or more, or null.")

    def terms(self, kind: str) -> Mapping[str, Term]:
        return self.by_type.get(kind) or self.measures

    def of(self, kind: str, measures: Measures) -> float:
        """The weighted mean of the terms: in [0, 1], and rising with every measure that it names; one that could not be
        taken counts as 0, so that severities of one type stay comparable.
        """
        terms = self.terms(kind)
        weight = sum(term.weight for term in terms.values())
        return sum(term.part(measures.get(name)) for name, term in terms.items()) / weight

    def grade(self, severity: float) -> str:
        return GRADES[sum(severity >= cut for cut in (self.major_from, self.critical_from))]

    def accepts(self, grades: Sequence[str]) -> bool:
        """Whether a product with defects of these grades passes."""
        ranks = [GRADES.index(grade) for grade in grades]
        return not any(
            limit is not None and sum(rank >= GRADES.index(grade) for rank in ranks) >= limit
            for grade, limit in self.reject.items()
        )


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
