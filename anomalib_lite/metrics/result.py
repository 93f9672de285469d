"""What a metric accumulator answers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MetricResult:
    """Metrics by name, why some are absent, and what they were counted over.

    values: number, or None where it cannot be had; missing: the reason for each None, and for each kind of
    image left out ("images"); counts: images, pixels and regions that were used. All of it goes into JSON as
    it is.
    """

    values: dict[str, float | None]
    missing: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict:
        return {"values": dict(self.values), "missing": dict(self.missing), "counts": dict(self.counts)}


def absent(names: tuple[str, ...], reason: str) -> tuple[dict[str, float | None], dict[str, str]]:
    """All `names` without a value, for one reason."""
    return dict.fromkeys(names), dict.fromkeys(names, reason)
