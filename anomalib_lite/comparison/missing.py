"""What was not run: seeds and data sets that some settings have and others lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anomalib_lite.comparison.design import Design


@dataclass(frozen=True)
class Gap:
    """A setting on a data set, and the seeds that other settings have there and it has not; `there` may be none."""

    variant: str
    block: str
    there: list[int]
    absent: list[int]


def incomplete(gaps: Sequence[Gap]) -> list[Gap]:
    """Settings that have some of the seeds."""
    return [gap for gap in gaps if gap.there]


def never_run(gaps: Sequence[Gap]) -> dict[str, list[str]]:
    """Data set -> settings without any run on it."""
    found: dict[str, list[str]] = {}
    for gap in gaps:
        if not gap.there:
            found.setdefault(gap.block, []).append(gap.variant)
    return found


def find_gaps(design: Design) -> list[Gap]:
    """In the order of data sets and settings."""
    known = design.rows.groupby(["data", "variant"])["seed"].agg(set).to_dict()
    gaps = []
    for block in design.blocks:
        every = set().union(*(seeds for (data, _), seeds in known.items() if data == block))
        for variant in design.variants:
            there = known.get((block, variant), set())
            if absent := every - there:
                gaps.append(Gap(variant, block, sorted(there), sorted(absent)))
    return gaps
