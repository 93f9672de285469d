"""The page's part on defects: where each lies, of which type it is, and how bad."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from anomalib_lite.defects.book import DefectBook, Page
from anomalib_lite.defects.defect import Defect
from anomalib_lite.defects.drawing import area_colour, draw_layout
from anomalib_lite.defects.severity import GRADES
from anomalib_lite.report.pictures import data_uri, outline_path, thumbnail
from anomalib_lite.report.words import percent

_ROWS = 400  # of the table; all are in defects.csv
_CLOSE_UP = 2.2  # times the defect's longer side: what a close-up shows
_HEADS = {  # of the measures that the table shows: name and unit
    "area_px": ("area", "px"), "area_mm2": ("area", "mm²"), "length_px": ("length", "px"),
    "length_mm": ("length", "mm"), "width_px": ("width", "px"), "width_mm": ("width", "mm"),
    "colour_difference": ("colour", "CIEDE2000"), "contrast": ("contrast", ""),
    "sharpness_loss": ("sharpness lost", ""), "edge_displacement_px": ("edge moved", "px"),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A defect as the page shows it. measures: (text, number or None) in the order of the table's columns."""

    image: str
    truth: str
    kind: str
    title: str
    colour: str
    confidence: str
    severity: float
    grade: str
    measures: list[tuple[str, float | None]]
    picture: int | None
    view_box: str


@dataclass(frozen=True)
class Shot:
    """An image with defects, (width, height) in px: its picture as a data URI, and each defect's (colour, outline)."""

    name: str
    width: int
    height: int
    picture: str
    outlines: list[tuple[str, str]]
    verdict: str
    kinds: str
    grade: str
    severity: float


@dataclass(frozen=True)
class DefectsView:
    """All that the template lays out."""

    rows: list[Row]
    shots: list[Shot]
    total: int
    types: list[tuple[str, str, str, int]]
    grades: list[tuple[str, int]]
    columns: list[tuple[str, str]]
    layout: str
    areas: list[tuple[str, str, str, str]]
    confusion: tuple[list[str], list[tuple[str, list[int]]], str] | None
    rejected: str


def defects_view(book: DefectBook | None) -> DefectsView | None:
    """None without a book, and of one without images."""
    if book is None or not book.pages:
        return None
    everything = [(page, defect) for page in book.pages for defect in page.inspection.defects]
    everything.sort(key=lambda pair: -pair[1].severity)
    columns = [name for name in _HEADS if any(d.measures.get(name) is not None for _, d in everything)]
    pages = [page for page in book.pages if page.picture is not None]
    pages.sort(key=lambda page: -page.inspection.defects[0].severity)
    places = {page.image: number for number, page in enumerate(pages)}
    kinds, grades = Counter(d.kind for _, d in everything), Counter(d.grade for _, d in everything)
    rejected = sum(not page.inspection.accepted for page in book.pages)
    return DefectsView(
        rows=[_row(book, page, defect, columns, places.get(page.image)) for page, defect in everything[:_ROWS]],
        shots=[_shot(book, page) for page in pages],
        total=len(everything),
        types=[(rule.name, rule.title, rule.colour, kinds[rule.name]) for rule in book.inspector.settings.types],
        grades=[(grade, grades[grade]) for grade in GRADES],
        columns=[_HEADS[name] for name in columns],
        layout=data_uri(thumbnail(draw_layout(book.inspector.layout, book.inspector.reference.image))),
        areas=_areas(book),
        confusion=_confusion(book),
        rejected=f"{rejected} of {len(book.pages)}",
    )


def _row(book: DefectBook, page: Page, defect: Defect, columns: list[str], place: int | None) -> Row:
    rule = book.inspector.settings.type_named(defect.kind)
    values = [defect.measures.get(name) for name in columns]
    return Row(
        image=page.image,
        truth="" if (page.name or "") in page.image else page.name or "",
        kind=rule.name,
        title=rule.title,
        colour=rule.colour,
        confidence=percent(defect.confidence),
        severity=defect.severity,
        grade=defect.grade,
        measures=[
            ("–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}", value) for value in values
        ],
        picture=place,
        view_box="" if place is None else _close_up(defect, page),
    )


def _shot(book: DefectBook, page: Page) -> Shot:
    small = thumbnail(page.picture)
    height, width = small.shape[:2]
    defects = page.inspection.defects
    colour = {rule.name: rule.colour for rule in book.inspector.settings.types}
    return Shot(
        name=page.image,
        width=width,
        height=height,
        picture=data_uri(small),
        outlines=[(colour[defect.kind], outline_path(defect.mask, height, width)) for defect in defects],
        verdict="accepted" if page.inspection.accepted else "rejected",
        kinds=" ".join(sorted({defect.kind for defect in defects})),
        grade=defects[0].grade,
        severity=defects[0].severity,
    )


def _close_up(defect: Defect, page: Page) -> str:
    """A square of the thumbnail around a defect, as an SVG view box."""
    small, shape = thumbnail(page.picture).shape, np.array(defect.mask.shape)
    scale = small[0] / shape[0]
    x, y, width, height = (value * scale for value in defect.box)
    side = min(max(_CLOSE_UP * max(width, height), 48), *small[:2])
    left = min(max(x + width / 2 - side / 2, 0), small[1] - side)
    top = min(max(y + height / 2 - side / 2, 0), small[0] - side)
    return f"{left:.1f} {top:.1f} {side:.1f} {side:.1f}"


def _areas(book: DefectBook) -> list[tuple[str, str, str, str]]:
    """(name, colour, share of the picture, how it was found) of each area."""
    layout = book.inspector.layout
    return [
        (name, area_colour(layout, name), percent(layout.area(name).mean()), layout.found_by.get(name, ""))
        for name in layout.names
    ]


def _confusion(book: DefectBook) -> tuple[list[str], list[tuple[str, list[int]]], str] | None:
    table = book.table
    if table is None:
        return None
    titles = {rule.name: rule.title for rule in book.inspector.settings.types}
    rows = [(titles[name], row) for name, row in zip(table.truth, table.counts.tolist(), strict=True)]
    share = "" if table.accuracy is None else percent(table.accuracy)
    return [titles.get(name, name) for name in table.found], rows, share
