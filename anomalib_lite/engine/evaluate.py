"""A trained model on images: outcomes, the threshold, metrics, defects, and a figure to choose settings by."""

import logging
import time
from collections import defaultdict
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
from anomalib_lite.data.images import ImageSet, content, loader, to_pixels
from anomalib_lite.data.sample import Batch, Outcome
from anomalib_lite.defects import DefectCollector, Inspector, LevelsOfMaps, load_inspector, prepare_inspector
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
    """What a model says of labelled images. metrics: what metrics.json holds. outcomes: one for each image, in the
    samples' order; those that a page may show keep image, map and mask. pixel_points: of the pixel curves. seconds:
    that the model took, apart from what is done with its maps. collector: of the defects.
    """

    metrics: dict[str, Any]
    outcomes: list[Outcome]
    pixel_points: Mapping[str, Any] | None
    seconds: float
    threshold: Threshold
    collector: DefectCollector | None


def run_over(model: Model, batches: DataLoader[Batch], describe: str) -> Iterator[tuple[Batch, Prediction]]:
    """Each batch with its maps and scores, on the CPU, with a progress bar. Whoever looks at large images forgets a
    batch before asking for the next one, as is done here.
    """
    with tqdm(total=len(batches), desc=describe, delay=2, leave=False) as bar:
        for batch in batches:
            map, score = model.predict_batch(batch)
            yield batch, Prediction(map.float().cpu(), score.float().cpu())
            del batch, map, score
            bar.update()


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
        del batch, prediction  # 250 MB of a large image, while the next one is judged
    own = {}
    for name in sorted({category for category in categories if category is not None}):
        chosen = np.array([category == name for category in categories])
        own[name] = threshold_from_ok(np.array(scores)[chosen], np.array(maxima)[chosen], rate)
    threshold = replace(threshold_from_ok(scores, maxima, rate), categories=own)
    if percentile is not None:
        note = (
            f"the pixel threshold is {factor:g} times the {percentile:g} % quantile of OK pixels, and promises nothing"
        )
        pixel = factor * float(np.percentile(np.concatenate(pixels), percentile))
        threshold = replace(threshold, pixel=pixel, note="; ".join(filter(None, [threshold.note, note])))
    return threshold, levels


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
    inspector: Inspector | None = None,
) -> Evaluation:
    """Goes once through the images; memory does not grow with their number. inspector: finds the defects."""
    collector = None if inspector is None else DefectCollector(inspector, threshold)
    total, by_category = Measured(aupro_limit), defaultdict[str, Measured](lambda: Measured(aupro_limit))
    inspected = None if model.region is None else model.region[0, 0].cpu().numpy()
    outcomes, seconds, begin = list[Outcome](), 0.0, time.perf_counter()
    for batch, prediction in run_over(model, loader(images, model.at_once(batch_size)), "evaluate"):
        seconds += time.perf_counter() - begin
        fresh = _outcomes(batch, prediction, threshold, model.evidence)
        for k, outcome in enumerate(fresh):
            part = (slice(None), slice(None)) if batch.inside is None else content(batch.inside[k])
            regions, category = images.regions_of(outcome.sample), outcome.sample.category
            for measured in [total] if category is None else [total, by_category[category]]:
                measured.add(outcome, part, inspected, regions)
        if collector is not None:
            fresh = [collector.add(outcome) for outcome in fresh]
        if model.tiling is not None:
            fresh = [_for_page(outcome) for outcome in fresh]
        outcomes = thin_out(outcomes + fresh, threshold)
        del batch, prediction, fresh, outcome  # 300 MB of a large image, while the next one is judged
        begin = time.perf_counter()
    metrics = _summary(total, outcomes, threshold)
    metrics["per_defect"] = {n: row for m in by_category.values() or [total] for n, row in _by_defect(m, outcomes)}
    metrics |= _of_categories(by_category, outcomes, threshold)
    if collector is not None:
        metrics["defects"] = collector.metrics()
    give_back()
    from anomalib_lite.report.figures import pixel_points  # what draws takes a second, and 90 MB

    points = pixel_points(*total.pixels.total().from_bin()[:3]) if metrics["pixel_auroc"] is not None else None
    return Evaluation(metrics, outcomes, points, seconds, threshold, collector)


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
    """Image AUROC, pixel AUROC, AUPRO and their mean on OK images and copies of them with drawn defects, of kinds that
    no detector learns from.

    The same images get the same defects whatever the model is, so that runs of one image size and tiling compare.
    """
    measured, size = Measured(aupro_limit), model.at_once(DRAWN_BATCH)
    batches = drawn_batches(images, range(len(images)), DRAWN, np.random.default_rng(0), size, UNLEARNED)
    for batch in tqdm(batches, "validate", -(-(len(images) + DRAWN) // size), delay=2, leave=False):
        prediction = model.predict_batch(batch)
        labels = batch.label.tolist()
        measured.images.update(prediction.score.float().cpu(), labels)
        measured.pixels.update(prediction.map.float().cpu(), batch.mask, labels)
    found = measured.values()
    values = {name: found[name] for name in FIGURES}
    known = [value for value in values.values() if value is not None]
    mean = sum(known) / len(FIGURES) if len(known) == len(FIGURES) else None
    return {**values, "mean": mean, "ok_images": len(images), "drawn": DRAWN}


def make_inspector(
    settings: Mapping[str, Any] | None, run: Path, train: ImageSet, levels: LevelsOfMaps, template: Path | None
) -> None:
    """Finds an inspector from the real OK training images, and saves it in the run's folder.

    settings: the group `defects`; None or without types: there is none. levels: of the maps of held-out OK images.
    """
    if not settings or not settings.get("types"):
        return
    shape = shrunk(train.size, INSPECTED)
    real = [k for k, sample in enumerate(train.samples) if sample.origin == "real"]
    real = real if shape == train.size else real[:FEW]  # their median wants all of them in memory
    golden = None if template is None else resize_image(read_image(template), *shape)
    pictures = (resize_image(train.pixels_of(k)[0], *shape) for k in real)
    prepare_inspector(settings, pictures, levels.compute(), golden).save(run / INSPECTOR, settings)


def open_inspector(run: Path) -> Inspector | None:
    """A finished training's; None where it has none."""
    if not (run / INSPECTOR).is_dir():
        return None
    try:
        return load_inspector(run / INSPECTOR)
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


def _for_page(outcome: Outcome) -> Outcome:
    """With smaller pictures, as pages show many; what stands out in the map is kept."""
    assert outcome.image is not None and outcome.map is not None
    size = shrunk(outcome.map.shape, SHOWN)
    map = F.adaptive_max_pool2d(torch.from_numpy(outcome.map)[None], size)[0].numpy()
    mask = None if outcome.mask is None else resize_mask(outcome.mask, *size)
    return replace(outcome, image=resize_image(outcome.image, *size), map=map, mask=mask)


class Measured:
    """Metrics of some of the images."""

    def __init__(self, aupro_limit: float = 0.3) -> None:
        self.images, self.pixels = ImageMetrics(), PixelMetrics(limit=aupro_limit)

    def add(
        self,
        outcome: Outcome,
        part: tuple[slice, slice] = (slice(None), slice(None)),
        inspected: np.ndarray | None = None,
        regions: Regions | None = None,
    ) -> None:
        """part: rows and columns that no letterbox added. inspected: bool (H, W), None for everywhere. regions: the
        defects one by one, where they are known.
        """
        assert outcome.map is not None
        sample = outcome.sample
        self.images.update([outcome.score], [sample.label], [sample.defect])
        mask = None if outcome.mask is None else outcome.mask[part]
        counted = None if inspected is None else inspected[part]
        each = [(defect[part], enough) for defect, enough in regions or ()] or None
        self.pixels.update(outcome.map[part][None], [mask], [sample.label], [sample.defect], counted, [each])

    def values(self) -> dict[str, float | None]:
        return self.images.compute().values | self.pixels.compute().values


def _summary(measured: Measured, outcomes: Sequence[Outcome], threshold: Threshold) -> dict[str, Any]:
    whole, maps, alarms = measured.images.compute(), measured.pixels.compute(), _alarms(outcomes)
    return {
        **whole.values,
        **maps.values,
        "pixel_f1": measured.pixels.f1(threshold.pixel),
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
        found = [o.nok for o in outcomes if o.sample.label and (o.sample.defect or "unnamed") == name]
        figures = {key: values.get(key) for key in _figures(values)}
        yield name, {"n": len(found), **figures, "recall": sum(found) / len(found)}


def _of_categories(parts: Mapping[str, Measured], outcomes: Sequence[Outcome], threshold: Threshold) -> dict[str, Any]:
    """`categories`: rows by name, `mean_of_categories`: of what all of them have; nothing where there are none."""
    rows: dict[str, dict[str, Any]] = {}
    for name, measured in sorted(parts.items()):
        own = [outcome for outcome in outcomes if outcome.sample.category == name]
        values = measured.values() | _alarms(own).values
        rows[name] = {"n": len(own)} | {key: values[key] for key in (*_figures(values), *RATES)}
        rows[name] |= {"threshold": threshold.of(name).image, "note": threshold.of(name).note}
    means = {}
    for key in dict.fromkeys(key for row in rows.values() for key in row if key not in ("n", "threshold", "note")):
        known = [row[key] for row in rows.values() if row.get(key) is not None]
        means[key] = sum(known) / len(known) if known and len(known) == len(rows) else None
    return {"categories": rows, "mean_of_categories": means} if rows else {}


def _figures(values: Mapping[str, Any]) -> tuple[str, ...]:
    return (*FIGURES, "auspro") if "auspro" in values else FIGURES


def _alarms(outcomes: Sequence[Outcome]) -> MetricResult:
    """Of the verdicts on labelled images, each by its own category's threshold."""
    judged = [o for o in outcomes if o.sample.label is not None]
    return alarm_metrics(np.array([o.nok for o in judged]), np.array([o.sample.label for o in judged]))
