"""What a measured run leaves behind: metrics, predictions, figures, a page, and a word in the terminal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from anomalib_lite.data.files import short_name
from anomalib_lite.data.images import ImageSet, to_pixels
from anomalib_lite.defects import DefectCollector
from anomalib_lite.detectors.model import Model
from anomalib_lite.jobs.evaluation import Evaluation, write_predictions
from anomalib_lite.report.cases import MISTAKES, select_cases, verdict
from anomalib_lite.report.figures import image_curves
from anomalib_lite.report.heatmap import overlay
from anomalib_lite.report.page import write_report
from anomalib_lite.runs.atomic import write_json
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.runs.tracking import Findings, Tracker, with_status
from anomalib_lite.scoring import Threshold

log = logging.getLogger(__name__)
TRACKED_PICTURES = 16  # of each kind


def conclude(
    cfg: DictConfig,
    run: RunFolder,
    detector: Model,
    images: ImageSet,
    result: Evaluation,
    threshold: Threshold,
    tracker: Tracker,
    book: DefectCollector | None = None,
    train: ImageSet | None = None,
) -> None:
    """train: the images that were learned from, of which a tracked run shows some."""
    write_json(run.path / "metrics.json", result.metrics)
    write_predictions(run.path / "predictions.csv", result.outcomes)
    if book is not None:
        book.write(run.path)
    if cfg.tracking.kind != "none":
        page = write_report(run.path, result.outcomes, pixel_points=result.pixel_points, book=book)
        log.info("report: %s", page)
        if tracker.logger:
            tracker.log_result(_findings(run, detector, result, threshold, book, train))
    log.info("%s", in_words(result.metrics))


def _findings(
    run: RunFolder,
    detector: Model,
    result: Evaluation,
    threshold: Threshold,
    book: DefectCollector | None,
    train: ImageSet | None,
) -> Findings:
    shown: dict[str, list[Any]] = {"failures": [], "cases": []}
    cases = [outcome for outcome in result.outcomes if outcome.image is not None]
    for case in (cases[i] for i in select_cases(cases, threshold.image)):
        words = verdict(case)
        heading = "failures" if words in MISTAKES else "cases"
        if len(shown[heading]) < TRACKED_PICTURES:
            picture = overlay(case.image, case.map, threshold.pixel)
            shown[heading].append((f"{words}: {short_name(case.sample.image)}", picture))
    if train is not None:
        shown["training images"] = _as_trained(detector, train)
    curves = image_curves(result.outcomes, result.metrics)
    return Findings(
        metrics=with_status(result.metrics, run.status),
        pictures=shown,
        defects=book.rows() if book else None,
        curves={curve.name: (curve.x, curve.y, curve.x_label, curve.y_label) for curve in curves},
        files={
            "model": [run.path / name for name in ("model.safetensors", "threshold.json", "config.yaml")],
            "report": [run.path / "report.html", run.path / "metrics.json", run.path / "predictions.csv"],
        },
    )


def _as_trained(detector: Model, train: ImageSet) -> list[tuple[str, Any]]:
    """A spread of the training images, changed as the first training step would change them."""
    step = max(1, len(train) // TRACKED_PICTURES)
    batch = train[list(range(0, len(train), step))[:TRACKED_PICTURES]]
    names = [f"{train.samples[i].origin}: {train.samples[i].image.name}" for i in batch.index.tolist()]
    if detector.augment is not None and detector.method.epochs:
        batch = detector.augment(batch, 0)
    return list(zip(names, to_pixels(batch.image), strict=True))


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
    if drawn := metrics.get("validation"):
        lines.append(
            f"drawn defects on held-out OK images: image AUROC {number(drawn['image_auroc'])}   "
            f"pixel AUROC {number(drawn['pixel_auroc'])}   AUPRO {number(drawn['aupro'])}"
        )
    lines += [f"{name} not available: {reason}" for name, reason in metrics["missing"].items()]
    if metrics["threshold"]["note"]:
        lines.append(metrics["threshold"]["note"])
    return "\n".join(lines)
