"""Writes the report of a run: a single self-contained HTML file, and its figures."""

import logging
from collections import Counter
from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from anomalib_lite.data.sample import Outcome
from anomalib_lite.defects import DefectCollector
from anomalib_lite.report import ink, words
from anomalib_lite.report.cases import MISTAKES, select_cases, verdict
from anomalib_lite.report.defects import defects_view
from anomalib_lite.report.figures import Points, draw_figures
from anomalib_lite.report.generated import generated_view
from anomalib_lite.report.pictures import colour_bar, data_uri, picture, tick_positions
from anomalib_lite.runs.atomic import write_text
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.scoring import Threshold

_SHOWN_ELSEWHERE = ("state", "timings", "choice")  # keys of status.json

log = logging.getLogger(__name__)


def write_report(
    run: RunFolder,
    outcomes: Sequence[Outcome],
    threshold: Threshold,
    pixel_points: Points | None = None,
    collector: DefectCollector | None = None,
) -> None:
    """Writes report.html and figures/*.png; metrics, losses, status and configuration are read from the run's files.

    Args:
        run: An evaluated run.
        outcomes: Of all test images; those with an image and a map can be shown.
        threshold: The threshold of the outcomes.
        pixel_points: Of the pixel curves, see `figures.pixel_points`.
        collector: The defects that were found.
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
        reasons=words.notes(metrics),
        threshold=words.threshold_words(threshold, metrics),
        choice=words.choice(status),
        defects=words.defect_rows(metrics),
        categories=words.category_rows(metrics),
        found=defects_view(collector),
        pictures=pictures,
        kinds=sorted(kinds.items(), key=lambda item: (item[0] != "OK", item[0])),
        mistakes=sum(one["mistake"] for one in pictures),
        all_mistakes=sum(verdict(outcome) in MISTAKES for outcome in outcomes),
        all_images=len(outcomes),
        scale=data_uri(colour_bar(512, 8), 95),
        ticks=tick_positions(),
        generated=generated_view(run.path),
        drawings={name: Markup(ink.to_svg(drawing)) for name, drawing in figures.items()},  # noqa: S704 - our own
        stages=words.stages(status.get("timings", {})),
        status_rows=words.tables(status, skip=_SHOWN_ELSEWHERE),
        environment=words.tables({"images": metrics["counts"]}) + words.tables(run.environment),
        config=(run.path / "config.yaml").read_text(encoding="utf-8"),
    )
    write_text(run.path / "report.html", page)
    log.info("report: %s", run.path / "report.html")
