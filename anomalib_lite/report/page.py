"""Writes the report of a run, a single self-contained HTML file, and its figures."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from anomalib_lite.data.files import short_name
from anomalib_lite.data.sample import Outcome
from anomalib_lite.defects import Defect, DefectCollector, Inspector
from anomalib_lite.defects.collect import area_colour, draw_layout
from anomalib_lite.defects.rules import GRADES
from anomalib_lite.report import ink, words
from anomalib_lite.report.cases import MISTAKES, select_cases, verdict
from anomalib_lite.report.figures import Points, draw_figures
from anomalib_lite.report.generated import generated_view
from anomalib_lite.report.pictures import colour_bar, data_uri, outline_path, picture, thumbnail, tick_positions
from anomalib_lite.runs.atomic import write_text
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.scoring import Threshold

Part = dict[str, Any]  # variables of the template
_SHOWN_ELSEWHERE = ("state", "timings", "choice")  # keys of status.json
_ROWS = 400  # rows of the table of defects; defects.csv contains all
_CLOSE_UP = 2.2  # side of a close-up, as a multiple of the defect's longer side
_HEADS = {  # measures in the table: heading and unit
    "area_px": ("area", "px"), "area_mm2": ("area", "mm²"), "length_px": ("length", "px"),
    "length_mm": ("length", "mm"), "width_px": ("width", "px"), "width_mm": ("width", "mm"),
    "colour_difference": ("colour", "CIEDE2000"), "contrast": ("contrast", ""),
    "sharpness_loss": ("sharpness lost", ""), "edge_displacement_px": ("edge moved", "px"),
}  # fmt: skip

log = logging.getLogger(__name__)


def write_report(
    run: RunFolder, outcomes: Sequence[Outcome], threshold: Threshold,
    pixel_points: Points | None = None, collector: DefectCollector | None = None,
) -> None:  # fmt: skip
    """Writes report.html and figures/*.png; metrics, losses, status and configuration are read from the run's files.

    `outcomes` are those of all test images, of which it can show those with an image and a map; `pixel_points` come
    from `figures.pixel_points`.
    """
    metrics, status = run.metrics, run.status
    figures = draw_figures(outcomes, threshold, metrics, pd.DataFrame(run.history()), pixel_points)
    for name, drawing in figures.items():
        ink.save_png(drawing, run.path / "figures" / f"{name}.png")
    with_image = [outcome for outcome in outcomes if outcome.image is not None]
    pictures = [picture(with_image[i], threshold) for i in select_cases(with_image, threshold)]
    kinds = Counter(one["kind"] for one in pictures)
    page = ink.template("report.html.j2").render(
        title=run.path.resolve().name,
        subtitle=words.subtitle(run),
        shares=words.shares(outcomes),
        cards=words.cards(metrics),
        reasons=[reason for key, reason in metrics["missing"].items() if key not in metrics],  # e.g. images left out
        threshold=words.threshold_words(threshold, metrics),
        choice=words.choice(status),
        defects=words.defect_rows(metrics),
        categories=words.category_rows(metrics),
        found=defects_view(collector) if collector and collector.outcomes else None,
        pictures=pictures,
        kinds=sorted(kinds.items(), key=lambda item: (item[0] != "OK", item[0])),
        mistakes=sum(one["mistake"] for one in pictures),
        all_mistakes=sum(verdict(outcome) in MISTAKES for outcome in outcomes),
        all_images=len(outcomes),
        scale=data_uri(colour_bar(512, 8), 95),
        ticks=tick_positions(),
        generated=generated_view(run.path),
        drawings={name: Markup(ink.to_svg(drawing)) for name, drawing in figures.items()},  # noqa: S704 - our own
        stages=words.stages(run.seconds()),
        status_rows=words.tables(status, skip=_SHOWN_ELSEWHERE),
        environment=words.tables({"images": metrics["counts"]}) + words.tables(run.environment),
        config=(run.path / "config.yaml").read_text(encoding="utf-8"),
    )
    write_text(run.path / "report.html", page)
    log.info("report: %s", run.path / "report.html")


def defects_view(collector: DefectCollector) -> Part:
    """Returns the variables of the section on defects: positions, types and severities."""
    inspector, outcomes, table = collector.inspector, collector.outcomes, collector.confusion
    rules, layout = inspector.settings.types, inspector.layout
    everything = sorted(((o, d) for o in outcomes for d in o.defects), key=lambda pair: -pair[1].severity)
    columns = [name for name in _HEADS if any(d.measures.get(name) is not None for _, d in everything)]
    shown = sorted((o for o in outcomes if o.image is not None), key=lambda o: -o.defects[0].severity)
    shots = {o.sample.image: _shot(o, number, inspector) for number, o in enumerate(shown)}
    kinds, grades = Counter(d.kind for _, d in everything), Counter(d.grade for _, d in everything)
    titles = {name: str(rule.title) for name, rule in rules.items()}
    return {
        "rows": [
            _row(o, d, columns, shots.get(o.sample.image)) | {"rule": rules[d.kind]} for o, d in everything[:_ROWS]
        ],
        "shots": list(shots.values()),
        "total": len(everything),
        "types": [(name, rule, kinds[name]) for name, rule in rules.items()],
        "grades": [(grade, grades[grade]) for grade in GRADES],
        "columns": [_HEADS[name] for name in columns],
        "layout": data_uri(thumbnail(draw_layout(layout, inspector.reference.image))),
        "areas": [
            (name, area_colour(layout, name), words.percent(layout.area(name).mean()), layout.found_by.get(name, ""))
            for name in layout.names
        ],
        "confusion": table and (
            [titles.get(name, name) for name in table.found],
            [(titles[name], row) for name, row in zip(table.truth, table.counts.tolist(), strict=True)],
            "" if table.accuracy is None else words.percent(table.accuracy),
        ),
        "rejected": f"{sum(not inspector.accepts(o.defects) for o in outcomes)} of {len(outcomes)}",
    }  # fmt: skip


def _row(page: Outcome, defect: Defect, columns: list[str], shot: Part | None) -> Part:
    """Returns a row of the table; the measures are (text, number or None) by column."""
    values = [defect.measures.get(column) for column in columns]
    name, truth = short_name(page.sample.image), (page.sample.defect or "") if page.sample.label else ""
    return {
        "defect": defect,
        "image": name,
        "truth": "" if truth in name else truth,
        "confidence": words.percent(defect.confidence),
        "measures": [(words.NOT_THERE if v is None else f"{v:.3g}" if v < 1000 else f"{v:.0f}", v) for v in values],
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
