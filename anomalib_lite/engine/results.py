"""Writes the results of a run: metrics, predictions, figures, the report, and a summary for the terminal."""

import logging
from collections.abc import Mapping
from typing import Any

from anomalib_lite.data.files import short_name
from anomalib_lite.data.images import ImageSet, to_pixels
from anomalib_lite.detectors.model import Model
from anomalib_lite.engine.evaluate import Evaluation
from anomalib_lite.report.cases import MISTAKES, select_cases, verdict
from anomalib_lite.report.pictures import overlay
from anomalib_lite.runs.atomic import write_json
from anomalib_lite.runs.folder import MODEL, THRESHOLD, RunFolder
from anomalib_lite.runs.tracking import Findings, Tracker, with_status

log = logging.getLogger(__name__)
TRACKED_PICTURES = 16  # largest number of pictures that are tracked under one heading


def write_results(
    run: RunFolder, model: Model, result: Evaluation, tracker: Tracker, page: bool, train: ImageSet | None = None
) -> None:
    """Writes the results to the run's folder, and logs them to the tracker.

    page: whether to write report.html and figures/. train: training images, some of which a tracker shows.
    """
    write_json(run.path / "metrics.json", result.metrics)
    run.write_predictions(
        {"image": str(s.image), "label": s.label, "defect": s.defect, "category": s.category}
        | {"score": outcome.score, "nok": outcome.nok}
        for outcome in result.outcomes
        for s in [outcome.sample]
    )
    if result.collector is not None:
        result.collector.write(run.path)
    if page:
        from anomalib_lite.report.page import write_report  # importing it takes a second

        write_report(run, result.outcomes, result.threshold, result.pixel_points, result.collector)
    if tracker.logger:
        tracker.log_result(_findings(run, model, result, train))


def in_words(metrics: Mapping[str, Any]) -> str:
    """Formats the metrics as a few lines for the terminal, and logs why metrics are missing."""

    names = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO", "auspro": "AU-sPRO"}
    names = {key: name for key, name in names.items() if key in metrics}

    def number(value: float | None) -> str:
        return "   -  " if value is None else f"{value:6.4f}"

    def figures(row: Mapping[str, Any]) -> str:
        return "   ".join(f"{name} {number(row[key])}" for key, name in names.items() if key in row)

    lines = [figures(metrics)]
    for name, row in metrics.get("categories", {}).items():
        lines.append(f"{name}, {row['n']} images: {figures(row)}")
    if mean := metrics.get("mean_of_categories"):
        lines.append(f"mean of the categories: {figures(mean)}")
    if metrics["per_defect"]:
        width = max(len(name) for name in metrics["per_defect"])
        lines.append("  ".join([f"{'defect':{width}}    n", *(f"{name:7}" for name in names.values()), "found"]))
        for name, row in metrics["per_defect"].items():
            cells = [f"{number(row.get(key)):{max(7, len(column))}}" for key, column in names.items()]
            lines.append("  ".join([f"{name:{width}} {row['n']:4d}", *cells, f"{row['recall']:5.0%}"]))
    if (rejected := metrics.get("image_false_alarm_rate")) is not None:
        good = metrics["counts"]["ok_images"]
        lines.append(f"{round(rejected * good)} of {good} good images rejected ({rejected:.1%})")
    if validation := metrics.get("validation"):
        lines.append(f"validation (synthetic defects on held-out OK images): {figures(validation)}")
    reasons: dict[str, list[str]] = {}
    for name, reason in metrics["missing"].items():
        reasons.setdefault(reason, []).append(name)
    for reason, absent in reasons.items():
        if any(reason in other for other in reasons if other != reason):
            continue  # the longer reason contains this one
        log.info("%s%s", "" if absent == ["images"] else f"{', '.join(absent)} not available: ", reason)
    lines += [f"{name}: {row['note']}" for name, row in metrics.get("categories", {}).items() if row.get("note")]
    return "\n".join([*lines, *filter(None, [metrics["threshold"]["note"]])])


def _findings(run: RunFolder, model: Model, result: Evaluation, train: ImageSet | None) -> Findings:
    threshold = result.threshold
    shown: dict[str, list[Any]] = {"failures": [], "cases": []}
    for outcome in (result.outcomes[i] for i in select_cases(result.outcomes, threshold)):
        heading = "failures" if verdict(outcome) in MISTAKES else "cases"
        if outcome.image is not None and outcome.map is not None and len(shown[heading]) < TRACKED_PICTURES:
            picture = overlay(outcome.image, outcome.map, threshold.of(outcome.sample.category).pixel)
            shown[heading].append((f"{verdict(outcome)}: {short_name(outcome.sample.image)}", picture))
    if train is not None:
        shown["training images"] = _as_trained(model, train)
    from anomalib_lite.report.figures import AXES, image_curves

    curves = image_curves(result.outcomes)
    return Findings(
        metrics=with_status(result.metrics, run.status),
        pictures=shown,
        defects=result.collector.rows() if result.collector else None,
        curves={name: (curve.x, curve.y, AXES[name].x, AXES[name].y) for name, curve in curves.items()},
        files={
            "model": [run.path / name for name in (MODEL, THRESHOLD, "config.yaml")],
            "report": [run.path / "report.html", run.path / "metrics.json", run.path / "predictions.csv"],
        },
    )


def _as_trained(model: Model, train: ImageSet) -> list[tuple[str, Any]]:
    """Returns evenly spaced training images, augmented as in the first training step, with captions."""
    step = max(1, len(train) // TRACKED_PICTURES)
    batch = train[list(range(0, len(train), step))[:TRACKED_PICTURES]]
    names = [f"{sample.origin}: {sample.image.name}" for sample in batch.samples]
    if model.augment is not None and model.method.trains:
        batch = model.augment(batch, 0)
    return list(zip(names, to_pixels(batch.image), strict=True))
