"""Prepares the page's section on defects: positions, types and severities."""

from collections import Counter
from typing import Any

from anomalib_lite.data.files import short_name
from anomalib_lite.data.sample import Outcome
from anomalib_lite.defects import Defect, DefectCollector, Inspector
from anomalib_lite.defects.collect import area_colour, draw_layout
from anomalib_lite.defects.rules import GRADES
from anomalib_lite.report.pictures import data_uri, outline_path, thumbnail
from anomalib_lite.report.words import NOT_THERE, percent
from anomalib_lite.settings.training import DefectType

Part = dict[str, Any]  # variables of the template
_ROWS = 400  # rows of the table; defects.csv contains all defects
_CLOSE_UP = 2.2  # side of a close-up, as a multiple of the defect's longer side
_HEADS = {  # measures in the table: heading and unit
    "area_px": ("area", "px"), "area_mm2": ("area", "mm²"), "length_px": ("length", "px"),
    "length_mm": ("length", "mm"), "width_px": ("width", "px"), "width_mm": ("width", "mm"),
    "colour_difference": ("colour", "CIEDE2000"), "contrast": ("contrast", ""),
    "sharpness_loss": ("sharpness lost", ""), "edge_displacement_px": ("edge moved", "px"),
}  # fmt: skip


def defects_view(collector: DefectCollector | None) -> dict[str, Any] | None:
    """Returns the template's variables; None without a collector or images."""
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
        "types": [(name, rule, kinds[name]) for name, rule in rules.items()],
        "grades": [(grade, grades[grade]) for grade in GRADES],
        "columns": [_HEADS[name] for name in columns],
        "layout": data_uri(thumbnail(draw_layout(layout, collector.inspector.reference.image))),
        "areas": [
            (name, area_colour(layout, name), percent(layout.area(name).mean()), layout.found_by.get(name, ""))
            for name in layout.names
        ],
        "confusion": _confusion(collector),
        "rejected": f"{rejected} of {len(collector.outcomes)}",
    }


def _row(page: Outcome, defect: Defect, rule: DefectType, columns: list[str], shot: Part | None) -> Part:
    """Returns a table row; the measures are (text, number or None) by column."""
    values = [defect.measures.get(column) for column in columns]
    name, truth = short_name(page.sample.image), (page.sample.defect or "") if page.sample.label else ""
    return {
        "defect": defect,
        "rule": rule,
        "image": name,
        "truth": "" if truth in name else truth,
        "confidence": percent(defect.confidence),
        "measures": [(NOT_THERE if v is None else f"{v:.3g}" if v < 1000 else f"{v:.0f}", v) for v in values],
        "shot": shot,
        "view_box": "" if shot is None else _close_up(defect, shot["width"], shot["height"]),
    }


def _shot(page: Outcome, number: int, inspector: Inspector) -> Part:
    """Returns a picture with (colour, outline) of its defects."""
    assert page.image is not None  # the caller selects outcomes with an image
    small = thumbnail(page.image)
    height, width = small.shape[:2]
    outlines = [(inspector.settings.types[d.kind].colour, outline_path(d.mask, height, width)) for d in page.defects]
    return {
        "number": number, "name": short_name(page.sample.image), "worst": page.defects[0],
        "kinds": " ".join(sorted({defect.kind for defect in page.defects})), "width": width, "height": height,
        "accepted": inspector.accepts(page.defects), "picture": data_uri(small), "outlines": outlines,
    }  # fmt: skip


def _close_up(defect: Defect, across: int, down: int) -> str:
    """Returns the SVG view box of a square around a defect, in a thumbnail of `across` x `down` px."""
    x, y, width, height = (value * down / defect.mask.shape[0] for value in defect.box)
    side = min(max(_CLOSE_UP * max(width, height), 48), down, across)
    left = min(max(x + width / 2 - side / 2, 0), across - side)
    top = min(max(y + height / 2 - side / 2, 0), down - side)
    return f"{left:.1f} {top:.1f} {side:.1f} {side:.1f}"


def _confusion(collector: DefectCollector) -> tuple[list[str], list[tuple[str, list[int]]], str] | None:
    table = collector.confusion
    if table is None:
        return None
    titles = {name: str(rule.title) for name, rule in collector.inspector.settings.types.items()}
    rows = [(titles[name], row) for name, row in zip(table.truth, table.counts.tolist(), strict=True)]
    share = "" if table.accuracy is None else percent(table.accuracy)
    return [titles.get(name, name) for name in table.found], rows, share
