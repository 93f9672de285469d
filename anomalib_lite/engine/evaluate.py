"""A trained model on images: outcomes, the threshold, metrics, defects, and a figure to choose settings by."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from anomalib_lite.augment.synthetic import drawn_batches
from anomalib_lite.data.decode import read_image, resize_image, resize_mask
from anomalib_lite.data.images import ImageSet, content, loader, to_pixels
from anomalib_lite.data.sample import Batch, Outcome
from anomalib_lite.defects import DefectCollector, LevelsOfMaps, load_inspector, prepare_inspector
from anomalib_lite.detectors.model import Model, Prediction
from anomalib_lite.errors import UserError
from anomalib_lite.metrics import ImageMetrics, MetricResult, PixelMetrics, Regions, alarm_metrics
from anomalib_lite.report.cases import thin_out
from anomalib_lite.runs.folder import give_back
from anomalib_lite.scoring import MaxScore, Threshold, threshold_from_ok

log = logging.getLogger(__name__)

FIGURES = ("image_auroc", "pixel_auroc", "aupro")
RATES = ("image_false_alarm_rate", "image_detection_rate")
DRAWN, DRAWN_BATCH = 160, 16  # copies with a drawn defect, and how many at a time
INSPECTED, SHOWN = 1280, 640  # px of the longer side at which large images are inspected, and shown on a page
FEW = 16  # of them, that the inspector learns from
INSPECTOR = "inspector"  # folder in a run's folder


@dataclass(frozen=True)
class Evaluation:
    """What a model says of labelled images.

    Attributes:
        metrics: What metrics.json holds.
        outcomes: One for each image, in the samples' order; those that a page may show keep image, map and mask.
        pixel_points: Of the pixel curves, or None.
        seconds: That the model took, apart from what is done with its maps.
    """

    metrics: dict[str, Any]
    outcomes: list[Outcome]
    pixel_points: Mapping[str, Any] | None
    seconds: float


def run_over(model: Model, batches: DataLoader[Batch], describe: str) -> Iterator[tuple[Batch, Prediction]]:
    """Each batch with its maps and scores, on the CPU, with a progress bar."""
    for batch in tqdm(batches, describe, delay=2, leave=False):
        map, score = model.predict_batch(batch)
        yield batch, Prediction(map.float().cpu(), score.float().cpu())


def find_threshold(
    model: Model, images: ImageSet, batch_size: int, rate: float, percentile: float | None = None, factor: float = 1.0
) -> tuple[Threshold, LevelsOfMaps]:
    """From held-out OK images alone, for a stated false-alarm rate, of each category too; and what their maps look
    like.

    percentile: the pixel threshold becomes this of the OK pixels, times the factor; None: it keeps the rate, too.
    """
    scores, maxima, pixels, categories, levels = [], [], [], [], LevelsOfMaps()
    for batch, prediction in run_over(model, loader(images, model.at_once(batch_size)), "threshold"):
        scores += prediction.score.tolist()
        maxima += MaxScore()(prediction.map).tolist()
        categories += [sample.category for sample in batch.samples]
        if percentile is not None:
            pixels.append(prediction.map.numpy()[:, :, ::4, ::4].ravel())
        levels.update(prediction.map.numpy())
    threshold = replace(threshold_from_ok(scores, maxima, rate), categories=_own(scores, maxima, categories, rate))
    if percentile is not None:
        note = (
            f"the pixel threshold is {factor:g} times the {percentile:g} % quantile of OK pixels, and promises nothing"
        )
        pixel = factor * float(np.percentile(np.concatenate(pixels), percentile))
        threshold = replace(threshold, pixel=pixel, note="; ".join(filter(None, [threshold.note, note])))
    return threshold, levels


def _own(
    scores: Sequence[float], maxima: Sequence[float], categories: Sequence[str | None], rate: float
) -> dict[str, Threshold]:
    """The threshold of each category, from its own images."""
    own = {}
    for name in sorted({name for name in categories if name is not None}):
        chosen = [k for k, category in enumerate(categories) if category == name]
        own[name] = threshold_from_ok([scores[k] for k in chosen], [maxima[k] for k in chosen], rate)
    return own


def lowered(model: Model, threshold: Threshold, missed: ImageSet, batch_size: int) -> Threshold:
    """Just below the scores of NOK images that must be found, and what that costs, by the held-out OK images."""
    scores = [
        s for _, p in run_over(model, loader(missed, model.at_once(batch_size)), "missed") for s in p.score.tolist()
    ]
    if min(scores) > threshold.image:
        log.info("the threshold as it is finds all images of `missed` (%d)", len(scores))
        return threshold
    moved = threshold.moved(image=float(np.nextafter(np.float32(min(scores)), np.float32(-np.inf))))
    note = (
        f"The threshold was lowered from {threshold.image:.4g} to {moved.image:.4g}, so that {len(scores)} NOK images "
        f"are found that were missed: about {moved.promised_rate:.1%} of good images are then rejected, instead of "
        f"{threshold.promised_rate:.1%}."
    )
    log.warning("%s", note)
    return replace(moved, note=note)


def evaluate(
    model: Model,
    images: ImageSet,
    threshold: Threshold,
    batch_size: int,
    aupro_limit: float,
    collector: DefectCollector | None = None,
) -> Evaluation:
    """Goes once through the images; memory does not grow with their number. collector: of the defects."""
    by_image, by_pixel, by_category = ImageMetrics(), PixelMetrics(limit=aupro_limit), ByCategory(aupro_limit)
    outcomes: list[Outcome] = []
    predictions = _Timed(run_over(model, loader(images, model.at_once(batch_size)), "evaluate"))
    for batch, prediction in predictions:
        masks = [m[0] if known else None for m, known in zip(batch.mask, batch.has_mask, strict=True)]
        by_image.update(prediction.score, [s.label for s in batch.samples], [s.defect for s in batch.samples])
        regions = [images.regions_of(sample) for sample in batch.samples]
        _count_pixels(by_pixel, batch, prediction.map, masks, regions, model.region)
        by_category.update(batch, prediction, masks, regions, model.region)
        fresh = _outcomes(batch, prediction, threshold, model.evidence)
        if collector is not None:
            fresh = [collector.add(outcome) for outcome in fresh]
        if model.tiling is not None:
            fresh = [_for_page(outcome) for outcome in fresh]
        outcomes = thin_out(outcomes + fresh, threshold.image)
    metrics = _summary(by_image, by_pixel, outcomes, threshold) | by_category.compute(outcomes, threshold)
    if collector is not None:
        metrics["defects"] = collector.metrics()
    give_back()
    from anomalib_lite.report.figures import pixel_points  # what draws takes a second, and 90 MB

    points = pixel_points(*by_pixel.total().pixels) if metrics["pixel_auroc"] is not None else None
    return Evaluation(metrics, outcomes, points, predictions.seconds)


def hold_back(val: ImageSet) -> tuple[ImageSet, ImageSet]:
    """The held-out OK images in two halves: for the threshold, and for the validation.

    A threshold promises a false-alarm rate on images that nothing was chosen by; so those that settings are chosen by
    do not set it.
    """
    if len(val) < 4:
        raise UserError(
            f"validate=true needs at least 4 held-out OK images, half of them for the threshold, and there are "
            f"{len(val)}: hold out more (data.val_share), or leave validate=false."
        )
    return val.part(slice(0, None, 2)), val.part(slice(1, None, 2))


def validate(model: Model, images: ImageSet, aupro_limit: float) -> dict[str, Any]:
    """Image AUROC, pixel AUROC, AUPRO and their mean on OK images and copies of them with drawn defects.

    The same images get the same defects whatever the model and its batches are, so that runs compare.
    """
    by_image, by_pixel = ImageMetrics(), PixelMetrics(limit=aupro_limit)
    size = model.at_once(DRAWN_BATCH)
    batches = drawn_batches(images, range(len(images)), DRAWN, np.random.default_rng(0), size)
    total = -(-(len(images) + DRAWN) // size)
    for batch in tqdm(batches, "validate", total, delay=2, leave=False):
        prediction = model.predict_batch(batch)
        labels = batch.label.tolist()
        by_image.update(prediction.score.float().cpu(), labels)
        by_pixel.update(prediction.map.float().cpu(), batch.mask, labels)
    whole, maps = by_image.compute(), by_pixel.compute()
    values = {name: (whole.values | maps.values)[name] for name in FIGURES}
    known = [value for value in values.values() if value is not None]
    mean = sum(known) / len(FIGURES) if len(known) == len(FIGURES) else None
    return {**values, "mean": mean, "ok_images": len(images), "drawn": DRAWN}


def make_inspector(
    settings: Mapping[str, Any] | None, run: Path, train: ImageSet, levels: LevelsOfMaps, template: Path | None
) -> None:
    """Finds an inspector from the real OK training images, and saves it in the run's folder.

    Args:
        settings: The group `defects`; None or without types: there is none.
        run: The run's folder.
        train: The training images.
        levels: Of the maps of held-out OK images.
        template: The picture of the perfect product, or None.
    """
    if not settings or not settings.get("types"):
        return
    shape = shrunk(train.size, INSPECTED)
    real = [k for k, sample in enumerate(train.samples) if sample.origin == "real"]
    real = real if shape == train.size else real[:FEW]  # their median wants all of them in memory
    golden = None if template is None else resize_image(read_image(template), *shape)
    pictures = (resize_image(train.pixels_of(k)[0], *shape) for k in real)
    prepare_inspector(settings, pictures, levels.compute(), golden).save(run / INSPECTOR, settings)


def open_collector(run: Path, threshold: Threshold) -> DefectCollector | None:
    """An empty one for a finished training's inspector; None where it has none."""
    if not (run / INSPECTOR).is_dir():
        return None
    try:
        return DefectCollector(load_inspector(run / INSPECTOR), threshold.pixel)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{run / INSPECTOR} is torn ({error}). Train the run again with force=true.") from error


def _outcomes(
    batch: Batch, prediction: Prediction, threshold: Threshold, evidence: Sequence[dict[str, float]]
) -> list[Outcome]:
    """One an image, with copies of its pixels: a view would keep the whole batch in memory."""
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


def _count_pixels(
    metrics: PixelMetrics,
    batch: Batch,
    maps: Tensor,
    masks: Sequence[Tensor | None],
    regions: Sequence[Regions | None],
    region: Tensor | None,
    chosen: Sequence[int] | None = None,
) -> None:
    """Adds a batch's maps (B, 1, H, W), or those of the images chosen; neither what a letterbox added counts nor what
    is not inspected.
    """
    counted = None if region is None else region[0, 0].cpu().numpy()
    for k in range(len(batch)) if chosen is None else chosen:
        part = (slice(None), slice(None)) if batch.inside is None else content(batch.inside[k])
        mask, sample = masks[k], batch.samples[k]
        own, looked_at = None if mask is None else mask[part], None if counted is None else counted[part]
        each = [(defect[part], enough) for defect, enough in regions[k] or ()] or None
        metrics.update(maps[k : k + 1, 0][:, *part], [own], [sample.label], [sample.defect], looked_at, [each])


def _for_page(outcome: Outcome) -> Outcome:
    """With smaller pictures, as pages show many; what stands out in the map is kept."""
    assert outcome.image is not None and outcome.map is not None
    size = shrunk(outcome.map.shape, SHOWN)
    map = F.adaptive_max_pool2d(torch.from_numpy(outcome.map)[None], size)[0].numpy()
    mask = None if outcome.mask is None else resize_mask(outcome.mask, *size)
    return replace(outcome, image=resize_image(outcome.image, *size), map=map, mask=mask)


def shrunk(shape: Sequence[int], longest: int) -> tuple[int, int]:
    """Height and width with the same aspect, of at most so many px."""
    scale = min(1.0, longest / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _summary(
    images: ImageMetrics, pixels: PixelMetrics, outcomes: Sequence[Outcome], threshold: Threshold
) -> dict[str, Any]:
    whole, maps, alarms = images.compute(), pixels.compute(), _alarms(outcomes)
    by_pixel = pixels.compute_by_defect()
    per_defect = {}
    for name, result in images.compute_by_defect().items():
        values = result.values | (by_pixel[name].values if name in by_pixel else {})
        found = [o.nok for o in outcomes if o.sample.label and (o.sample.defect or "unnamed") == name]
        per_defect[name] = {"n": len(found)} | {key: values.get(key) for key in _figures(values)}
        per_defect[name]["recall"] = sum(found) / len(found)
    return {
        **whole.values,
        **maps.values,
        "pixel_f1": pixels.f1(threshold.pixel),
        **alarms.values,
        "per_defect": per_defect,
        "missing": whole.missing | maps.missing | alarms.missing,
        "counts": whole.counts | maps.counts,
        "threshold": threshold.summary(),
    }


def _figures(values: Mapping[str, Any]) -> tuple[str, ...]:
    return (*FIGURES, "auspro") if "auspro" in values else FIGURES


def _alarms(outcomes: Sequence[Outcome]) -> MetricResult:
    """Of the verdicts on labelled images, each by its own category's threshold."""
    judged = [o for o in outcomes if o.sample.label is not None]
    flagged, labels = np.array([o.nok for o in judged], float), np.array([o.sample.label for o in judged], bool)
    return alarm_metrics(flagged, labels, 0.5)


class ByCategory:
    """The figures of each of several products on its own, and their mean; the pixels' counts take 24 MB a product."""

    def __init__(self, aupro_limit: float) -> None:
        self.limit, self.parts = aupro_limit, dict[str, tuple[ImageMetrics, PixelMetrics]]()

    def update(
        self,
        batch: Batch,
        prediction: Prediction,
        masks: Sequence[Tensor | None],
        regions: Sequence[Regions | None],
        region: Tensor | None,
    ) -> None:
        for name in {s.category for s in batch.samples if s.category is not None}:
            by_image, by_pixel = self.parts.setdefault(name, (ImageMetrics(), PixelMetrics(limit=self.limit)))
            own = [k for k, sample in enumerate(batch.samples) if sample.category == name]
            by_image.update(prediction.score[own], [batch.samples[k].label for k in own])
            _count_pixels(by_pixel, batch, prediction.map, masks, regions, region, own)

    def compute(self, outcomes: Sequence[Outcome], threshold: Threshold) -> dict[str, Any]:
        """`categories`: rows by name, `mean_of_categories`: of what all of them have; nothing where there are none."""
        rows: dict[str, dict[str, Any]] = {}
        for name, (by_image, by_pixel) in sorted(self.parts.items()):
            own = [outcome for outcome in outcomes if outcome.sample.category == name]
            values = by_image.compute().values | by_pixel.compute().values | _alarms(own).values
            rows[name] = {"n": len(own)} | {key: values[key] for key in (*_figures(values), *RATES)}
            rows[name]["threshold"] = threshold.of(name).image
        means = {}
        for key in dict.fromkeys(key for row in rows.values() for key in row if key not in ("n", "threshold")):
            known = [row[key] for row in rows.values() if row.get(key) is not None]
            means[key] = sum(known) / len(known) if known and len(known) == len(rows) else None
        return {"categories": rows, "mean_of_categories": means} if rows else {}


class _Timed:
    """Goes through predictions and adds up the seconds that they took, apart from what is done with them."""

    def __init__(self, predictions: Iterator[tuple[Batch, Prediction]]) -> None:
        self.predictions, self.seconds = predictions, 0.0

    def __iter__(self) -> Iterator[tuple[Batch, Prediction]]:
        while True:
            begin = time.perf_counter()
            try:
                item = next(self.predictions)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - begin
            yield item
