"""The page's part on defects: where each lies, of which type it is, and how bad."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from anomalib_lite.data.files import short_name
from anomalib_lite.data.sample import Outcome
from anomalib_lite.defects import Defect, DefectCollector, Inspector
from anomalib_lite.defects.drawing import area_colour, draw_layout
from anomalib_lite.defects.rules import GRADES, TypeRule
from anomalib_lite.report.pictures import data_uri, outline_path, thumbnail
from anomalib_lite.report.words import NOT_THERE, percent

_ROWS = 400  # of the table; all are in defects.csv
_CLOSE_UP = 2.2  # times the defect's longer side: what a close-up shows
_HEADS = {  # of the measures that the table shows: name and unit
    "area_px": ("area", "px"), "area_mm2": ("area", "mm²"), "length_px": ("length", "px"),
    "length_mm": ("length", "mm"), "width_px": ("width", "px"), "width_mm": ("width", "mm"),
    "colour_difference": ("colour", "CIEDE2000"), "contrast": ("contrast", ""),
    "sharpness_loss": ("sharpness lost", ""), "edge_displacement_px": ("edge moved", "px"),
}  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """A picture with defects as a data URI, (width, height) in px, and each defect's (colour, outline)."""

    page: Outcome
    name: str
    accepted: bool
    number: int
    width: int
    height: int
    picture: str
    outlines: list[tuple[str, str]]

    @property
    def kinds(self) -> str:
        return " ".join(sorted({defect.kind for defect in self.page.defects}))


@dataclass(frozen=True)
class Row:
    """A defect in the table. measures: (text, number or None) by column. shot: its picture, with a close-up's box."""

    defect: Defect
    rule: TypeRule
    image: str
    truth: str
    confidence: str
    measures: list[tuple[str, float | None]]
    shot: Shot | None
    view_box: str


def defects_view(collector: DefectCollector | None) -> dict[str, Any] | None:
    """What the template lays out; None without a collector, and of one without images."""
    if collector is None or not collector.outcomes:
        return None
    rules = collector.inspector.settings.types
    everything = [(page, defect) for page in collector.outcomes for defect in page.defects]
    everything.sort(key=lambda pair: -pair[1].severity)
    columns = [name for name in _HEADS if any(d.measures.get(name) is not None for _, d in everything)]
    pages = [page for page in collector.outcomes if page.image is not None]
    pages.sort(key=lambda page: -page.defects[0].severity)
    shots = {page.sample.image: _shot(page, number, collector.inspector) for number, page in enumerate(pages)}
    kinds, grades = Counter(d.kind for _, d in everything), Counter(d.grade for _, d in everything)
    layout = collector.inspector.layout
    rejected = sum(not collector.inspector.accepts(page.defects) for page in collector.outcomes)
    return {
        "rows": [_row(page, d, rules[d.kind], columns, shots.get(page.sample.image)) for page, d in everything[:_ROWS]],
        "shots": list(shots.values()),
        "total": len(everything),
        "types": [(rule, kinds[name]) for name, rule in rules.items()],
        "grades": [(grade, grades[grade]) for grade in GRADES],
        "columns": [_HEADS[name] for name in columns],
        "layout": data_uri(thumbnail(draw_layout(layout, collector.inspector.reference.image))),
        "areas": [
            (name, area_colour(layout, name), percent(layout.area(name).mean()), layout.found_by.get(name, ""))
            for name in layout.names
        ],
        "confusion": _confusion(collector, rules),
        "rejected": f"{rejected} of {len(collector.outcomes)}",
    }


def _row(page: Outcome, defect: Defect, rule: TypeRule, columns: list[str], shot: Shot | None) -> Row:
    values = [defect.measures.get(column) for column in columns]
    name, truth = short_name(page.sample.image), (page.sample.defect or "") if page.sample.label else ""
    return Row(
        defect=defect,
        rule=rule,
        image=name,
        truth="" if truth in name else truth,
        confidence=percent(defect.confidence),
        measures=[(NOT_THERE if v is None else f"{v:.3g}" if v < 1000 else f"{v:.0f}", v) for v in values],
        shot=shot,
        view_box="" if shot is None else _close_up(defect, shot),
    )


def _shot(page: Outcome, number: int, inspector: Inspector) -> Shot:
    assert page.image is not None  # as those that are shown have one
    small = thumbnail(page.image)
    height, width = small.shape[:2]
    outlines = [(inspector.settings.types[d.kind].colour, outline_path(d.mask, height, width)) for d in page.defects]
    name, accepted = short_name(page.sample.image), inspector.accepts(page.defects)
    return Shot(page, name, accepted, number, width, height, data_uri(small), outlines)


def _close_up(defect: Defect, shot: Shot) -> str:
    """A square of the thumbnail around a defect, as an SVG view box."""
    scale = shot.height / defect.mask.shape[0]
    x, y, width, height = (value * scale for value in defect.box)
    side = min(max(_CLOSE_UP * max(width, height), 48), shot.height, shot.width)
    left = min(max(x + width / 2 - side / 2, 0), shot.width - side)
    top = min(max(y + height / 2 - side / 2, 0), shot.height - side)
    return f"{left:.1f} {top:.1f} {side:.1f} {side:.1f}"


def _confusion(
    collector: DefectCollector, rules: dict[str, TypeRule]
) -> tuple[list[str], list[tuple[str, list[int]]], str] | None:
    table = collector.confusion
    if table is None:
        return None
    titles = {name: rule.title for name, rule in rules.items()}
    rows = [(titles[name], row) for name, row in zip(table.truth, table.counts.tolist(), strict=True)]
    share = "" if table.accuracy is None else percent(table.accuracy)
    return [titles.get(name, name) for name in table.found], rows, share
