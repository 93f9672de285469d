"""A row's interval as positions on an axis that all rows of its table share, in percent of its width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.ticker import MaxNLocator

from anomalib_lite.comparison.strata import Interval

MARGIN = 0.3  # of the range of seeds and inner intervals: room for the outer ones, which may be far wider


@dataclass(frozen=True)
class Axis:
    low: float
    high: float

    def at(self, number: float) -> float:
        share = (number - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values inside the axis: position and label."""
        steps = MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        places = max(0, -math.floor(math.log10(steps[1] - steps[0]) + 1e-9)) if len(steps) > 1 else 2
        inside = [s for s in steps if self.low <= s <= self.high and 4 < self.at(s) < 96]
        return [(self.at(s), f"{s:.{places}f}".replace("-", "−")) for s in inside]


@dataclass(frozen=True)
class Bar:
    """`inner` and `outer`: left end and width; `beyond`: at which sides the outer interval goes on past the axis."""

    mean: float
    dots: list[float] = field(default_factory=list)
    inner: tuple[float, float] | None = None
    outer: tuple[float, float] | None = None
    beyond: tuple[bool, bool] = (False, False)
    zero: float | None = None


def axis_of(numbers: Sequence[float], margin: float = MARGIN) -> Axis:
    known = [n for n in numbers if math.isfinite(n)] or [0.0]
    low, high = min(known), max(known)
    room = margin * (high - low) or 1e-3 * max(abs(high), 1.0)
    return Axis(low - room, high + room)


def bar(
    axis: Axis,
    mean: float,
    dots: Sequence[float] = (),
    inner: Interval | None = None,
    outer: Interval | None = None,
    zero: bool = False,
) -> Bar:
    beyond = (outer.low < axis.low, outer.high > axis.high) if outer and outer.known else (False, False)
    ends = [_span(axis, one) for one in (inner, outer)]
    return Bar(axis.at(mean), [axis.at(d) for d in dots], ends[0], ends[1], beyond, axis.at(0.0) if zero else None)


def _span(axis: Axis, interval: Interval | None) -> tuple[float, float] | None:
    if interval is None or not interval.known:
        return None
    left, right = axis.at(interval.low), axis.at(interval.high)
    return left, round(right - left, 2)
