"""How bad a defect is: one number from its measures, a grade, and the verdict on the product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anomalib_lite.defects.measures import UNITS
from anomalib_lite.errors import UserError

GRADES = ("minor", "major", "critical")


@dataclass(frozen=True)
class Term:
    """A measure's part: g(m) = m / (m + half), which is 0 at 0, 1/2 at `half`, and comes near 1; with its weight."""

    half: float
    weight: float

    def part(self, value: float | int | None) -> float:
        size = 0.0 if value is None else max(0.0, float(value))
        return self.weight * size / (size + self.half)


@dataclass(frozen=True)
class SeverityRules:
    """terms: for each type of defect, its measures' terms. cuts: severities from which on a defect is major, and
    critical. reject: for each grade, the number of defects at that grade or above that rejects a product; None: none.
    """

    terms: Mapping[str, Mapping[str, Term]]
    cuts: tuple[float, float] = (0.35, 0.6)
    reject: Mapping[str, int | None] | None = None

    def severity(self, kind: str, measures: Mapping[str, float | int | None]) -> float:
        """The weighted mean of the terms' g(m): in [0, 1], and rising with every measure that it names.

        A measure that could not be taken counts as 0, so that severities of one type stay comparable.
        """
        terms = self.terms[kind]
        return sum(term.part(measures.get(name)) for name, term in terms.items()) / sum(
            t.weight for t in terms.values()
        )

    def grade(self, severity: float) -> str:
        return GRADES[sum(severity >= cut for cut in self.cuts)]

    def accepts(self, grades: Sequence[str]) -> bool:
        """Whether a product with defects of these grades passes."""
        ranks = [GRADES.index(grade) for grade in grades]
        limits = dict.fromkeys(GRADES, 1) if self.reject is None else self.reject
        return not any(
            limit is not None and sum(rank >= GRADES.index(grade) for rank in ranks) >= limit
            for grade, limit in limits.items()
        )


def read_severity(config: Mapping, types: Sequence[str]) -> SeverityRules:
    """Rules of a configuration: measures {measure: {half, weight}}, by_type {type: the same, in its place}, major_from,
    critical_from, reject {grade: number}.

    Errors: UserError for unknown names, for numbers out of range, and for cut-offs that do not rise.
    """
    unknown = set(config.get("by_type") or {}) - set(types)
    if unknown:
        raise UserError(
            f"defects.severity.by_type names no type {', '.join(sorted(unknown))}. There are: {', '.join(types)}."
        )
    usual = config.get("measures") or {}
    terms = {kind: _terms((config.get("by_type") or {}).get(kind) or usual, kind) for kind in types}
    cuts = (float(config.get("major_from", 0.35)), float(config.get("critical_from", 0.6)))
    if not 0 < cuts[0] <= cuts[1] <= 1:
        raise UserError(f"defects.severity needs 0 < major_from <= critical_from <= 1, not {cuts[0]} and {cuts[1]}.")
    reject = dict(config.get("reject") or dict.fromkeys(GRADES, 1))
    for grade, count in reject.items():
        if grade not in GRADES or (count is not None and (not isinstance(count, int) or count < 1)):
            raise UserError(f"defects.severity.reject: grades are {', '.join(GRADES)}, numbers 1 or more, or null.")
    return SeverityRules(terms, cuts, reject)


def _terms(given: Mapping, kind: str) -> dict[str, Term]:
    unknown = [name for name in given if name not in UNITS]
    if unknown:
        raise UserError(f"The severity of {kind} names no measure {', '.join(unknown)}. There are: {', '.join(UNITS)}.")
    try:
        terms = {name: Term(float(values["half"]), float(values["weight"])) for name, values in given.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"The severity of {kind}: each measure needs two numbers, half and weight.") from error
    if not terms or any(term.half <= 0 or term.weight <= 0 for term in terms.values()):
        raise UserError(f"The severity of {kind} needs at least one measure, half and weight above 0.")
    return terms
