"""The page of a run: one HTML file with all in it, for a browser, a printer or a colleague's mail box."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from anomalib_lite.defects.book import DefectBook
from anomalib_lite.report import ink, view
from anomalib_lite.report.cases import MISTAKES, Case, outcome, select_cases
from anomalib_lite.report.curves import Points
from anomalib_lite.report.defects import defects_view
from anomalib_lite.report.figures import draw_figures, save_figures
from anomalib_lite.report.gallery import contact_sheet
from anomalib_lite.report.generated import generated_view
from anomalib_lite.report.heatmap import colour_bar, tick_positions
from anomalib_lite.report.pictures import data_uri, pictures
from anomalib_lite.report.run_files import RunFiles, read_run
from anomalib_lite.report.words import yaml_lines
from anomalib_lite.runs.atomic import write_text

_CONTACT_SHEET = 18  # images on gallery.png

_log = logging.getLogger(__name__)


def write_report(
    run_dir: str | Path,
    cases: Sequence[Case] = (),
    *,
    pixel_points: Points | None = None,
    max_cases: int = 120,
    title: str | None = None,
    book: DefectBook | None = None,
) -> Path:
    """Writes report.html and figures/*.png of a run from the files in its folder; returns the page's path.

    `cases` are the images to show, at most `max_cases` of them; `select_cases` chooses, and tells beforehand
    of which images of a large test set to keep the maps. `pixel_points` are the points of the pixel curves,
    see `curves.pixel_points`. `book` holds the defects that were found. A run without
    NOK images, or one that failed, gets a page of what there is.
    """
    run = read_run(run_dir)
    chosen = [cases[i] for i in select_cases(cases, run.image_threshold, max_cases)]
    drawn = draw_figures(run, pixel_points)
    save_figures(drawn, run.path / "figures")
    sheet = contact_sheet(_telling(chosen, run.image_threshold), run.image_threshold, run.pixel_threshold)
    if sheet is not None:
        ink.save_png(sheet, run.path / "figures" / "gallery.png", dpi=100)
    target = run.path / "report.html"
    write_text(target, _render(run, cases, chosen, drawn, title or run.path.resolve().name, book))
    _log.debug("Wrote %s.", target)
    return target


def _telling(chosen: Sequence[Case], threshold: float) -> list[Case]:
    """A few for the contact sheet: at most half of them mistakes, the worst, then a spread of the others."""
    wrong = [outcome(case, threshold) in MISTAKES for case in chosen]
    worst = [case for case, mistake in zip(chosen, wrong, strict=True) if mistake][: _CONTACT_SHEET // 2]
    others = [case for case, mistake in zip(chosen, wrong, strict=True) if not mistake]
    return worst + [others[i] for i in select_cases(others, threshold, _CONTACT_SHEET - len(worst))]


def _render(
    run: RunFiles,
    cases: Sequence[Case],
    chosen: Sequence[Case],
    drawn: Mapping[str, Figure],
    title: str,
    book: DefectBook | None,
) -> str:
    shown = pictures(chosen, run.image_threshold, run.pixel_threshold)
    judged = run.predictions or cases
    loader = jinja2.PackageLoader("anomalib_lite.report")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.j2").render(
        title=title,
        subtitle=view.subtitle(run),
        state=str(run.status.get("status") or run.status.get("state") or "unknown"),
        status=run.status,
        status_rows=view.tables(run.status, skip=("status", "state", "error", "traceback", "timings")),
        shares=view.shares(judged, run.image_threshold),
        cards=view.cards(run.metrics),
        notes=view.notes(run.metrics),
        threshold=view.threshold_words(run.metrics),
        defects=view.defect_rows(run.metrics),
        drawings={name: Markup(ink.to_svg(drawing)) for name, drawing in drawn.items()},
        found=defects_view(book),
        generated=generated_view(run.path),
        pictures=shown,
        kinds=view.counts([picture.kind for picture in shown]),
        mistakes=sum(picture.mistake for picture in shown),
        all_mistakes=sum(outcome(item, run.image_threshold) in MISTAKES for item in judged),
        all_images=len(judged),
        scale=data_uri(colour_bar(512, 8), 95),
        ticks=tick_positions(),
        timings=view.timings(run.status),
        environment=view.tables({"images": run.metrics.get("counts")}) + view.tables(run.environment),
        config=yaml_lines(run.config),
    )
