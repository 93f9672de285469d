"""The page of a run: one HTML file with all in it, for a browser, a printer or a colleague's mail box."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from anomalib_lite.data.sample import Outcome, Sample
from anomalib_lite.defects import DefectCollector
from anomalib_lite.report import ink, words
from anomalib_lite.report.cases import MISTAKES, select_cases, verdict
from anomalib_lite.report.contact_sheet import contact_sheet
from anomalib_lite.report.defects import defects_view
from anomalib_lite.report.figures import Points, draw_figures
from anomalib_lite.report.generated import generated_view
from anomalib_lite.report.pictures import colour_bar, data_uri, pictures, tick_positions
from anomalib_lite.runs.atomic import write_text
from anomalib_lite.runs.folder import RunFolder

_CONTACT_SHEET = 18  # images on gallery.png
_TOLD = ("state", "error", "traceback", "timings", "choice")  # of status.json, told elsewhere

_log = logging.getLogger(__name__)


def write_report(
    run_dir: str | Path,
    outcomes: Sequence[Outcome] | None = None,
    *,
    pixel_points: Points | None = None,
    collector: DefectCollector | None = None,
) -> Path:
    """Writes report.html, whose path it returns, and figures/*.png of a run; a run that failed gets a page of what
    there is. Figures, status and configuration come from the run's files.

    Args:
        run_dir: the run's folder.
        outcomes: of all test images; those with an image and a map can be shown. None: those of predictions.csv.
        pixel_points: of the pixel curves, see `figures.pixel_points`.
        collector: the defects that were found.
    """
    run = RunFolder.open(run_dir)
    judged = outcomes
    if judged is None:
        rows = run.predictions()
        judged = [Outcome(Sample(Path(r["image"]), r["label"], defect=r["defect"]), r["score"], r["nok"]) for r in rows]
    known = (words.number(run.threshold.get(name)) for name in ("image", "pixel"))
    threshold, pixel_threshold = (math.inf if value is None else value for value in known)
    shown = [outcome for outcome in judged if outcome.image is not None]
    shown = [shown[i] for i in select_cases(shown, threshold)]
    drawn = draw_figures(judged, threshold, run.metrics, pd.DataFrame(run.history()), pixel_points)
    for name, drawing in drawn.items():
        ink.save_png(drawing, run.path / "figures" / f"{name}.png")
    sheet = contact_sheet(_telling(shown, threshold), threshold, pixel_threshold)
    if sheet is not None:
        ink.save_png(sheet, run.path / "figures" / "gallery.png", dpi=100)
    made = pictures(shown, threshold, pixel_threshold)
    parts = _parts(run, judged, drawn) | {
        "title": run.path.resolve().name,
        "found": defects_view(collector),
        "pictures": made,
        "kinds": words.counts([picture["kind"] for picture in made]),
        "mistakes": sum(picture["mistake"] for picture in made),
    }
    target = run.path / "report.html"
    write_text(target, ink.template("report.html.j2").render(parts))
    _log.debug("Wrote %s.", target)
    return target


def _parts(run: RunFolder, judged: Sequence[Outcome], drawn: Mapping[str, Figure]) -> dict[str, Any]:
    """What the template lays out, but for the images."""
    status, metrics = run.status, run.metrics
    config = run.path / "config.yaml"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    return {
        "subtitle": words.subtitle(text),
        "state": status.get("state", "unknown"),
        "status": status,
        "status_rows": words.tables(status, skip=_TOLD),
        "shares": words.shares(judged),
        "cards": words.cards(metrics),
        "notes": words.notes(metrics),
        "threshold": words.threshold_words(metrics),
        "caution": words.caution(metrics),
        "choice": words.choice(status),
        "defects": words.defect_rows(metrics),
        "categories": words.category_rows(metrics),
        "drawings": {name: Markup(ink.to_svg(drawing)) for name, drawing in drawn.items()},  # noqa: S704 - our own
        "generated": generated_view(run.path),
        "all_mistakes": sum(verdict(outcome) in MISTAKES for outcome in judged),
        "all_images": len(judged),
        "scale": data_uri(colour_bar(512, 8), 95),
        "ticks": tick_positions(),
        "stages": words.stages(status),
        "environment": words.tables({"images": metrics.get("counts")}) + words.tables(run.environment),
        "config": words.yaml_lines(text),
    }


def _telling(shown: Sequence[Outcome], threshold: float) -> list[Outcome]:
    """A few for the contact sheet: at most half of them mistakes, the worst, then a spread of the others."""
    worst = [outcome for outcome in shown if verdict(outcome) in MISTAKES][: _CONTACT_SHEET // 2]
    others = [outcome for outcome in shown if verdict(outcome) not in MISTAKES]
    return worst + [others[i] for i in select_cases(others, threshold, _CONTACT_SHEET - len(worst))]
