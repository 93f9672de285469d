"""What a measured run leaves behind: metrics, predictions, figures, a page, and a word in the terminal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from anomalib_lite.data.images import ImageSet
from anomalib_lite.defects.book import DefectBook
from anomalib_lite.detectors.base import Detector
from anomalib_lite.jobs.evaluation import Evaluation, worst_cases, write_predictions
from anomalib_lite.report.heatmap import overlay
from anomalib_lite.report.page import write_report
from anomalib_lite.runs.atomic import write_json
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.runs.tracking import Tracker
from anomalib_lite.scoring import Threshold

log = logging.getLogger(__name__)
TRACKED_PICTURES = 16


def conclude(
    cfg: DictConfig,
    run: RunFolder,
    detector: Detector,
    images: ImageSet,
    result: Evaluation,
    threshold: Threshold,
    tracker: Tracker,
    book: DefectBook | None = None,
) -> None:
    write_json(run.path / "metrics.json", result.metrics)
    write_predictions(run.path / "predictions.csv", result.rows)
    if book is not None:
        book.write(run.path)
    pictures: list[Any] = []
    if cfg.tracking.kind != "none":
        cases = worst_cases(detector, images, result.rows, threshold, cfg.batch_size)
        page = write_report(run.path, cases, pixel_points=result.pixel_points, book=book)
        pictures = [(c.name, overlay(c.image, c.map, threshold.pixel)) for c in cases[:TRACKED_PICTURES]]
        log.info("report: %s", page)
    tracker.log_result(result.metrics, pictures, book.rows() if book else None)
    log.info("%s", in_words(result.metrics))


def in_words(metrics: Mapping[str, Any]) -> str:
    """The metrics as a few lines for the terminal."""

    def number(value: float | None) -> str:
        return "   -  " if value is None else f"{value:6.4f}"

    lines = [
        f"image AUROC {number(metrics['image_auroc'])}   pixel AUROC {number(metrics['pixel_auroc'])}   "
        f"AUPRO {number(metrics['aupro'])}"
    ]
    if metrics["per_defect"]:
        width = max(len(name) for name in metrics["per_defect"])
        lines.append(f"{'defect':{width}}    n  image AUROC  pixel AUROC  AUPRO   found")
        for name, row in metrics["per_defect"].items():
            lines.append(
                f"{name:{width}} {row['n']:4d}  {number(row['image_auroc'])}       {number(row['pixel_auroc'])}     "
                f"  {number(row['aupro'])}  {row['recall']:4.0%}"
            )
    lines += [f"{name} not available: {reason}" for name, reason in metrics["missing"].items()]
    if metrics["threshold"]["note"]:
        lines.append(metrics["threshold"]["note"])
    return "\n".join(lines)
