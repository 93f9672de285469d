"""Applies a trained model to images: threshold, metrics, defects, and a validation without NOK images."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from anomalib_lite.augment.cutpaste import UNLEARNED
from anomalib_lite.augment.synthetic import drawn_batches
from anomalib_lite.data.decode import read_image, resize_image, resize_mask, shrunk
from anomalib_lite.data.images import ImageSet, loader, to_pixels
from anomalib_lite.data.sample import Batch, Outcome
from anomalib_lite.defects import DefectCollector, Inspector, LevelsOfMaps, load_inspector, prepare_inspector, thinned
from anomalib_lite.detectors.model import Model, Prediction
from anomalib_lite.errors import UserError
from anomalib_lite.metrics import ImageMetrics, MetricResult, PixelMetrics, Regions, alarm_metrics, pixel_f1
from anomalib_lite.metrics.image import UNNAMED
from anomalib_lite.report.cases import thin_out
from anomalib_lite.runs.folder import release_memory
from anomalib_lite.scoring import MaxScore, Threshold, threshold_from_ok

log = logging.getLogger(__name__)

FIGURES = ("image_auroc", "pixel_auroc", "aupro")
RATES = ("image_false_alarm_rate", "image_detection_rate")
DRAWN, DRAWN_BATCH = 160, 16  # images with a synthetic defect in `validate`, and their batch size
INSPECTED, SHOWN = 1280, 640  # px of the longer side of large images, for inspection and on the report's page
FEW = 16  # large images that the inspector is fitted to
MARGIN = 1e-5  # relative distance of a lowered threshold from a missed score, which varies that much between batches
INSPECTOR = "inspector"  # subfolder of a run's folder


@dataclass(frozen=True)
class Evaluation:
    """Results of a model on labelled images."""

    metrics: dict[str, Any]  # content of metrics.json
    outcomes: list[Outcome]  # in the samples' order; those that the report may show keep image, map and mask
    pixel_points: Mapping[str, Any] | None  # of the pixel-level curves; None without masks
    seconds: float  # time of the model, without metrics and defects
    threshold: Threshold
    collector: DefectCollector | None  # the defects found; None without an inspector


def run_over(model: Model, batches: DataLoader[Batch], describe: str) -> Iterator[tuple[Batch, Prediction]]:
    """Yields each batch with its maps and scores on the CPU; `describe` labels the progress bar.

    With large images, callers should delete a batch before they ask for the next one, as this function does.
    """
    with tqdm(total=len(batches), desc=describe, delay=2, leave=False) as bar:
        for batch in batches:
            anomaly_map, score = model.predict_batch(batch)
            yield batch, Prediction(anomaly_map.float().cpu(), score.float().cpu())
            del batch, anomaly_map, score
            bar.update()


def find_threshold(
    model: Model, images: ImageSet, batch_size: int, rate: float, percentile: float | None = None, factor: float = 1.0
) -> tuple[Threshold, LevelsOfMaps]:
    """Sets thresholds from held-out OK images, for all and for each category; also returns the levels of their maps.

    rate: share of OK images that may be flagged. percentile, factor: the pixel threshold is this percentile of their
    pixels times the factor; None: it keeps `rate`, too.
    """
    scores, maxima, pixels, categories, levels = [], [], [], [], LevelsOfMaps()
    for batch, prediction in run_over(model, loader(images, model.at_once(batch_size)), "threshold"):
        scores += prediction.score.tolist()
        maxima += MaxScore()(prediction.map).tolist()
        categories += [sample.category for sample in batch.samples]
        counted = batch.counted(model.region)
        for k, values in enumerate(prediction.map.numpy()[:, 0]):
            inside = None if counted is None else counted[k, 0].cpu().numpy()
            levels.update(values, inside)
            if percentile is not None:
                pixels.append(thinned(values, 4, inside))
        del batch, prediction  # frees 250 MB of a large image before the next one is judged

    def of(chosen: np.ndarray) -> Threshold:
        threshold = threshold_from_ok(np.array(scores)[chosen], np.array(maxima)[chosen], rate)
        if percentile is None:
            return threshold
        note = (
            f"the pixel threshold is {factor:g} times the {percentile:g} % quantile of OK pixels: no false-alarm rate "
            "is guaranteed for it"
        )
        pixel = factor * float(np.percentile(np.concatenate([pixels[k] for k in chosen.nonzero()[0]]), percentile))
        return threshold.with_pixel(pixel, note)

    names = sorted({category for category in categories if category is not None})
    by_category = {name: of(np.array([category == name for category in categories])) for name in names}
    return replace(of(np.ones(len(scores), bool)), categories=by_category), levels


def lower_threshold(model: Model, threshold: Threshold, missed: ImageSet, batch_size: int) -> Threshold:
    """Lowers the threshold just below the scores of the `missed` NOK images; its note states the new false-alarm rate.

    Returns the threshold unchanged where it already flags all of them.
    """
    scores = [
        s for _, p in run_over(model, loader(missed, model.at_once(batch_size)), "missed") for s in p.score.tolist()
    ]
    if min(scores) > threshold.image:
        log.info("the threshold already flags all %d images of `missed`", len(scores))
        return threshold
    low = min(scores)
    moved = threshold.moved(image=low - MARGIN * abs(low))
    note = (
        f"The threshold was lowered from {threshold.image:.4g} to {moved.image:.4g} to flag {len(scores)} NOK images "
        f"that were missed: about {moved.promised_rate:.1%} of good images are now rejected, instead of "
        f"{threshold.promised_rate:.1%}"
    )
    log.warning("%s", note)
    return moved.noted(note)


def evaluate(
    model: Model,
    images: ImageSet,
    threshold: Threshold,
    batch_size: int,
    aupro_limit: float,
    inspector: Inspector | None = None,
) -> Evaluation:
    """Measures the model in one pass over labelled images; memory does not grow with their number.

    inspector: finds defects in the maps; None: no defects are reported.
    """
    collector = None if inspector is None else DefectCollector(inspector, threshold)
    total, names = Measured(aupro_limit), dict.fromkeys(sample.category for sample in images.samples)
    by_category = {name: total if len(names) == 1 and name is None else Measured(aupro_limit) for name in names}
    outcomes, seconds, begin = list[Outcome](), 0.0, time.perf_counter()
    for batch, prediction in run_over(model, loader(images, model.at_once(batch_size)), "evaluate"):
        seconds += time.perf_counter() - begin
        new, counted = _outcomes(batch, prediction, threshold, model.evidence), batch.counted(model.region)
        for k, outcome in enumerate(new):
            inside = None if counted is None else counted[k, 0].numpy()
            regions, category = images.regions_of(outcome.sample), outcome.sample.category
            for measured in {total, by_category[category]}:
                measured.add(outcome, inside, regions)
        if collector is not None:
            shown = map(images.shown, batch.index.tolist())
            new = [collector.add(outcome, each) for outcome, each in zip(new, shown, strict=True)]
        if model.tiling is not None:
            new = [_shrink(outcome) for outcome in new]
        outcomes = thin_out(outcomes + new, threshold)
        del batch, prediction, new, outcome, counted, inside  # frees 300 MB of a large image before the next one
        begin = time.perf_counter()
    f1 = pixel_f1((part.pixels, threshold.of(name).pixel) for name, part in by_category.items())
    metrics = _summary(total, outcomes, threshold) | {"pixel_f1": f1}
    metrics["per_defect"] = {name: row for part in by_category.values() for name, row in _by_defect(part, outcomes)}
    metrics |= _of_categories({n: part for n, part in by_category.items() if n is not None}, outcomes, threshold)
    if collector is not None:
        metrics["defects"] = collector.metrics()
    release_memory()
    from anomalib_lite.report.figures import pixel_points  # importing it takes a second and 90 MB

    points = pixel_points(*total.pixels.total().from_bin()[:3]) if metrics["pixel_auroc"] is not None else None
    return Evaluation(metrics, outcomes, points, seconds, threshold, collector)


def hold_back(val: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Splits the held-out OK images in two halves: for the threshold, and for the validation.

    The threshold's false-alarm rate only holds if no setting was chosen on the images that set it.
    """
    if len(val) < 4:
        raise UserError(
            f"validate=true needs at least 4 held-out OK images, half of them for the threshold, but there are "
            f"{len(val)}: hold out more (data.val_share), or set validate=false."
        )
    return val.part(slice(0, None, 2)), val.part(slice(1, None, 2))


def validate(model: Model, images: ImageSet, aupro_limit: float) -> dict[str, Any]:
    """Computes image AUROC, pixel AUROC, AUPRO and their mean on OK images and copies of them with synthetic defects.

    These defects are of kinds that no detector is trained on, and meet the inspected region. The same images get the
    same defects whatever the model, so runs with the same image size, tiling and region can be compared.
    """
    measured, size = Measured(aupro_limit), model.at_once(DRAWN_BATCH)
    rng, region, drawn = np.random.default_rng(0), model.region, 0
    batches = drawn_batches(images, range(len(images)), DRAWN, rng, size, UNLEARNED, region)
    for batch in tqdm(batches, "validate", -(-(len(images) + DRAWN) // size), delay=2, leave=False):
        prediction = model.predict_batch(batch)
        labels = batch.label.tolist()
        measured.images.update(prediction.score.float().cpu(), labels)
        measured.pixels.update(prediction.map.float().cpu(), batch.mask, labels, counted=batch.counted(region))
        drawn += sum(labels)
    results = measured.values()
    values = {name: results[name] for name in FIGURES}
    defined = [value for value in values.values() if value is not None]
    mean = sum(defined) / len(FIGURES) if len(defined) == len(FIGURES) else None
    return values | {"mean": mean, "ok_images": len(images), "drawn": drawn}


def make_inspector(
    settings: Mapping[str, Any] | None, run: Path, train: ImageSet, levels: LevelsOfMaps, template: Path | None
) -> None:
    """Fits the inspector, which finds and classifies defects, to real OK training images and saves it with the run.

    settings: the group `defects`; None or without types: no inspector. levels: of the maps of held-out OK images.
    """
    if not settings or not settings.get("types"):
        return
    shape = shrunk(train.size, INSPECTED)
    real = [k for k, sample in enumerate(train.samples) if sample.origin == "real"]
    real = real if shape == train.size else real[:FEW]  # the median needs all of them in memory
    golden = None
    if template is not None:
        golden = resize_image(train.resized(read_image(template, train.samples[0].bits), template), *shape)
    pictures = (resize_image(train.pixels_of(k)[0], *shape) for k in real)
    prepare_inspector(settings, pictures, levels.compute(), golden).save(run / INSPECTOR, settings)


def open_inspector(run: Path) -> Inspector | None:
    """Loads the inspector of a finished run; None where it has none."""
    if not (run / INSPECTOR).is_dir():
        return None
    try:
        return load_inspector(run / INSPECTOR)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{run / INSPECTOR} is damaged ({error}). Train the run again with force=true.") from error


def _outcomes(
    batch: Batch, prediction: Prediction, threshold: Threshold, evidence: Sequence[dict[str, float]]
) -> list[Outcome]:
    """Returns one outcome per image, with copies of its pixels, since views would keep the whole batch in memory."""
    pixels = to_pixels(batch.image)
    return [
        Outcome(
            sample=sample,
            score=score,
            nok=threshold.of(sample.category).nok(score),
            image=pixels[k].copy(),
            map=prediction.map[k, 0].numpy().copy(),
            mask=batch.mask[k, 0].numpy().copy() if batch.has_mask[k] else None,
            evidence=evidence[k],
        )
        for k, (sample, score) in enumerate(zip(batch.samples, prediction.score.tolist(), strict=True))
    ]


def _shrink(outcome: Outcome) -> Outcome:
    """Shrinks image, map and mask to the size shown on the report's page; max pooling keeps the map's peaks."""
    assert outcome.image is not None and outcome.map is not None
    size = shrunk(outcome.map.shape, SHOWN)
    anomaly_map = F.adaptive_max_pool2d(torch.from_numpy(outcome.map)[None], size)[0].numpy()
    mask = None if outcome.mask is None else resize_mask(outcome.mask, *size)
    return replace(outcome, image=resize_image(outcome.image, *size), map=anomaly_map, mask=mask)


class Measured:
    """Accumulates image and pixel metrics over a set of images."""

    def __init__(self, aupro_limit: float = 0.3) -> None:
        self.images, self.pixels = ImageMetrics(), PixelMetrics(limit=aupro_limit)

    def add(
        self,
        outcome: Outcome,
        counted: np.ndarray | None = None,
        regions: Regions | None = None,
    ) -> None:
        """Adds an outcome; of its pixels those in `counted`, bool (H, W).

        regions: masks of the single defects, where the data set has them.
        """
        assert outcome.map is not None
        sample, masks = outcome.sample, [outcome.mask]
        self.images.update([outcome.score], [sample.label], [sample.defect])
        self.pixels.update(outcome.map[None], masks, [sample.label], [sample.defect], counted, [regions or None])

    def values(self) -> dict[str, float | None]:
        return self.images.compute().values | self.pixels.compute().values


def _summary(measured: Measured, outcomes: Sequence[Outcome], threshold: Threshold) -> dict[str, Any]:
    whole, maps, alarms = measured.images.compute(), measured.pixels.compute(), _alarms(outcomes)
    return {
        **whole.values,
        **maps.values,
        **alarms.values,
        "missing": whole.missing | maps.missing | alarms.missing,
        "counts": whole.counts | maps.counts,
        "threshold": threshold.summary(),
    }


def _by_defect(measured: Measured, outcomes: Sequence[Outcome]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the metrics of each defect type against the good images of the same category."""
    by_pixel = measured.pixels.compute_by_defect()
    for name, result in measured.images.compute_by_defect().items():
        values = result.values | (by_pixel[name].values if name in by_pixel else {})
        found = [o.nok for o in outcomes if o.sample.label and (o.sample.defect or UNNAMED) == name]
        figures = {key: values.get(key) for key in _figures(values)}
        yield name, {"n": len(found), **figures, "recall": sum(found) / len(found)}


def _of_categories(parts: Mapping[str, Measured], outcomes: Sequence[Outcome], threshold: Threshold) -> dict[str, Any]:
    """Returns metrics by category and their mean, where all categories have the metric; {} without categories."""
    rows: dict[str, dict[str, Any]] = {}
    for name, measured in sorted(parts.items()):
        members = [outcome for outcome in outcomes if outcome.sample.category == name]
        values = measured.values() | _alarms(members).values
        rows[name] = {"n": len(members)} | {key: values[key] for key in (*_figures(values), *RATES)}
        rows[name] |= {"threshold": threshold.of(name).image, "note": threshold.of(name).note}
    means = {}
    for key in dict.fromkeys(key for row in rows.values() for key in row if key not in ("n", "threshold", "note")):
        defined = [row[key] for row in rows.values() if row.get(key) is not None]
        means[key] = sum(defined) / len(defined) if defined and len(defined) == len(rows) else None
    return {"categories": rows, "mean_of_categories": means} if rows else {}


def _figures(values: Mapping[str, Any]) -> tuple[str, ...]:
    return (*FIGURES, "auspro") if "auspro" in values else FIGURES


def _alarms(outcomes: Sequence[Outcome]) -> MetricResult:
    """Computes false-alarm and detection rates of labelled images; each used the threshold of its category."""
    judged = [o for o in outcomes if o.sample.label is not None]
    return alarm_metrics(np.array([o.nok for o in judged]), np.array([o.sample.label for o in judged]))
