"""A trained detector on labelled images: metrics, a table of predictions, and the cases worth looking at."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalib_lite.data.images import ImageSet, loader, to_pixels
from anomalib_lite.data.sample import Batch, Outcome
from anomalib_lite.defects import DefectCollector, LevelsOfMaps
from anomalib_lite.detectors.model import Model, Prediction
from anomalib_lite.jobs.inference import Timed, run_over
from anomalib_lite.metrics import ImageMetrics, PixelMetrics
from anomalib_lite.report.cases import thin_out
from anomalib_lite.report.figures import pixel_points
from anomalib_lite.runs.atomic import atomic_path
from anomalib_lite.scoring import MaxScore, Threshold, threshold_from_ok

PER_DEFECT = ("image_auroc", "pixel_auroc", "aupro")


@dataclass(frozen=True)
class Evaluation:
    """metrics: what metrics.json holds. outcomes: one for each image, in the samples' order; some with image and map.
    seconds: of the detector.
    """

    metrics: dict[str, Any]
    outcomes: list[Outcome]
    pixel_points: dict[str, Any] | None
    seconds: float


def find_threshold(detector: Model, images: ImageSet, batch_size: int, rate: float) -> tuple[Threshold, LevelsOfMaps]:
    """From held-out OK images alone, for a stated false-alarm rate; and what their maps look like."""
    scores, maxima, levels = [], [], LevelsOfMaps()
    for _, prediction in run_over(detector, loader(images, batch_size), "threshold"):
        scores += prediction.score.tolist()
        maxima += MaxScore()(prediction.map).tolist()
        levels.update(prediction.map.numpy())
    return threshold_from_ok(scores, maxima, rate), levels


def evaluate_detector(
    detector: Model,
    images: ImageSet,
    threshold: Threshold,
    batch_size: int,
    aupro_limit: float,
    collector: DefectCollector | None = None,
) -> Evaluation:
    """Goes once through the images; memory does not grow with their number. collector: of the defects."""
    image_metrics, pixel_metrics = ImageMetrics(), PixelMetrics(limit=aupro_limit)
    outcomes: list[Outcome] = []
    predictions = Timed(run_over(detector, loader(images, batch_size), "evaluate"))
    for batch, prediction in predictions:
        labels, defects = [s.label for s in batch.samples], [s.defect for s in batch.samples]
        masks = [m[0] if known else None for m, known in zip(batch.mask, batch.has_mask, strict=True)]
        image_metrics.update(prediction.score, labels, defects)
        pixel_metrics.update(prediction.map, masks, labels, defects)
        fresh = _outcomes(batch, prediction, threshold)
        for outcome in fresh if collector is not None else ():
            collector.add(outcome)
        outcomes = thin_out(outcomes + fresh, threshold.image)
    metrics = _summary(image_metrics, pixel_metrics, outcomes, threshold)
    if collector is not None:
        metrics["defects"] = collector.metrics()
    points = pixel_points(*pixel_metrics.total().pixels) if metrics["pixel_auroc"] is not None else None
    return Evaluation(metrics, outcomes, points, predictions.seconds)


def write_predictions(path: Path, outcomes: Sequence[Outcome]) -> None:
    """CSV: image, label (0 OK, 1 NOK, empty unknown), defect, score, nok (0 or 1)."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label", "defect", "score", "nok"])
        for o in outcomes:
            label = "" if o.sample.label is None else o.sample.label
            writer.writerow([o.sample.image, label, o.sample.defect or "", repr(o.score), int(o.nok)])


def _outcomes(batch: Batch, prediction: Prediction, threshold: Threshold) -> list[Outcome]:
    """One an image, with copies of its pixels: a view would keep the whole batch in memory."""
    pixels = to_pixels(batch.image)
    return [
        Outcome(
            sample=sample,
            score=score,
            nok=threshold.nok(score),
            image=pixels[k].copy(),
            map=prediction.map[k, 0].numpy().copy(),
            mask=batch.mask[k, 0].numpy().copy() if batch.has_mask[k] else None,
        )
        for k, (sample, score) in enumerate(zip(batch.samples, prediction.score.tolist(), strict=True))
    ]


def _summary(
    images: ImageMetrics, pixels: PixelMetrics, outcomes: Sequence[Outcome], threshold: Threshold
) -> dict[str, Any]:
    whole, maps, alarms = images.compute(), pixels.compute(), images.compute_alarms(threshold.image)
    by_pixel = pixels.compute_by_defect()
    per_defect = {}
    for name, result in images.compute_by_defect().items():
        values = result.values | (by_pixel[name].values if name in by_pixel else {})
        found = [o.nok for o in outcomes if o.sample.label and (o.sample.defect or "unnamed") == name]
        per_defect[name] = {"n": len(found)} | {key: values.get(key) for key in PER_DEFECT}
        per_defect[name]["recall"] = sum(found) / len(found)
    return {
        **whole.values,
        **maps.values,
        **alarms.values,
        "per_defect": per_defect,
        "missing": whole.missing | maps.missing | alarms.missing,
        "counts": whole.counts | maps.counts,
        "threshold": threshold.to_dict(),
    }
