"""Which type a defect is of, by rules that a configuration states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from anomalib_lite.defects.measures import UNITS
from anomalib_lite.errors import UserError

_SHARPNESS = 0.25  # difference of points that counts as a factor e in the confidence


@dataclass(frozen=True)
class Evidence:
    """Points for a measure: none up to `zero`, all from `full` on, in proportion between; `zero` may be the larger."""

    zero: float
    full: float
    points: float

    def given_by(self, value: float | int | None) -> float:
        """None, a measure that could not be taken, is no evidence."""
        if value is None:
            return 0.0
        return self.points * min(max((value - self.zero) / (self.full - self.zero), 0.0), 1.0)


@dataclass(frozen=True)
class TypeRule:
    """areas: points for lying in an area, in proportion to the share of the defect that does. evidence: by measure."""

    name: str
    title: str
    colour: str
    areas: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, Evidence] = field(default_factory=dict)

    def points(self, shares: Mapping[str, float], measures: Mapping[str, float | int | None]) -> float:
        lies = sum(points * shares.get(area, 0.0) for area, points in self.areas.items())
        return lies + sum(evidence.given_by(measures.get(name)) for name, evidence in self.evidence.items())


def classify(
    rules: Sequence[TypeRule], shares: Mapping[str, float], measures: Mapping[str, float | int | None]
) -> tuple[TypeRule, float]:
    """The rule with most points, and the confidence in it in (0, 1]: the softmax of the points over a quarter of one.

    shares: of the defect in each area; a defect over several areas collects points from all. Of equal points the rule
    that is listed first wins.
    """
    points = [rule.points(shares, measures) for rule in rules]
    best = max(range(len(rules)), key=lambda i: (points[i], -i))
    return rules[best], 1 / sum(math.exp((other - points[best]) / _SHARPNESS) for other in points)


def read_types(config: Mapping[str, Mapping], areas: Sequence[str]) -> tuple[TypeRule, ...]:
    """The rules of a configuration, in its order.

    A type's entry: title, colour, areas {area: points}, evidence {measure: {zero, full, points}}.
    Errors: UserError for areas and measures that there are none of, naming the valid ones.
    """
    if not config:
        raise UserError("defects.types is empty: name at least one type, or leave the defects out with defects=none.")
    return tuple(_rule(name, entry or {}, areas) for name, entry in config.items())


def _rule(name: str, entry: Mapping, areas: Sequence[str]) -> TypeRule:
    where = f"defects.types.{name}"
    _known(entry, ("title", "colour", "areas", "evidence"), where, "key")
    _known(entry.get("areas") or {}, areas, f"{where}.areas", "area")
    _known(entry.get("evidence") or {}, tuple(UNITS), f"{where}.evidence", "measure")
    evidence = {}
    for measure, values in (entry.get("evidence") or {}).items():
        try:
            evidence[measure] = Evidence(*(float(values[key]) for key in ("zero", "full", "points")))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}.evidence.{measure} needs three numbers: zero, full and points.") from error
        if evidence[measure].zero == evidence[measure].full:
            raise UserError(f"{where}.evidence.{measure}: zero and full must differ.")
    title, colour = str(entry.get("title") or name.replace("_", " ")), str(entry.get("colour") or "#6f7680")
    if len(colour) != 7 or colour[0] != "#" or not set(colour[1:].lower()) <= set("0123456789abcdef"):
        raise UserError(f"{where}.colour must be of the form '#2f6fb0', not {colour!r}.")
    weights = {area: float(points) for area, points in (entry.get("areas") or {}).items()}
    return TypeRule(name, title, colour, weights, evidence)


def _known(given: Mapping, valid: Sequence[str], where: str, what: str) -> None:
    unknown = [str(key) for key in given if key not in valid]
    if unknown:
        raise UserError(f"{where} names no {what} {', '.join(unknown)}. There are: {', '.join(valid)}.")
