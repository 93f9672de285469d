"""Opens a trained run, judges pictures with it, and measures it on labelled images."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file

from anomalib_lite.data.decode import read_image
from anomalib_lite.data.images import ImageSet, at_once, content, inspected, shown
from anomalib_lite.data.sample import Outcome, Sample, Splits
from anomalib_lite.defects import Inspector
from anomalib_lite.defects.collect import draw_defects
from anomalib_lite.detectors.model import Model
from anomalib_lite.engine.build import Judge, build_model, read_judge
from anomalib_lite.engine.evaluate import Evaluation, evaluate, open_inspector
from anomalib_lite.engine.results import write_results
from anomalib_lite.engine.trainer import MakeTrainer, devices_of
from anomalib_lite.engine.trust import check_targets
from anomalib_lite.errors import UserError
from anomalib_lite.export.session import Exported, exported_file
from anomalib_lite.report.pictures import overlay
from anomalib_lite.runs.folder import MODEL, TEMPLATE, RunFolder, open_finished
from anomalib_lite.runs.tracking import Tracker
from anomalib_lite.scoring import Threshold

log = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Picture:
    """A decoded image file: uint8 RGB (H, W, 3) as `pixels` at the file's size, as `resized` at the model's."""

    sample: Sample
    pixels: np.ndarray
    resized: np.ndarray


@dataclass(frozen=True)
class Judged:
    """The model's answer to one picture."""

    outcome: Outcome  # score, verdict, picture and map; `TrainedRun.inspect` adds the defects
    inspected: tuple[np.ndarray, np.ndarray]  # picture and map to search for defects, with padding of a letterbox
    inside: tuple[slice, slice]  # rows and columns of `inspected` without padding


@dataclass(frozen=True)
class TrainedRun:
    """A finished training, ready to judge images. All methods but `answers` are thread-safe.

    inspector: finds defects in maps, or None. template: a golden image to use instead of the run's.
    """

    run: RunFolder
    judge: Judge
    model: Model
    threshold: Threshold
    inspector: Inspector | None
    template: Path | None = None

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def exported(self) -> bool:
        """Whether this is a file that `export` wrote."""
        return bool(self.about)

    @property
    def about(self) -> dict[str, Any]:
        """Returns the metadata of an exported file; {} for a run's folder."""
        return self.model.about if isinstance(self.model, Exported) else {}

    @cached_property
    def data(self) -> dict[str, Any]:
        """Returns the training's record of its data (data.json)."""
        return self.about["data"] if self.exported else self.run.data

    @property
    def metrics(self) -> dict[str, Any]:
        """Returns the run's metrics on its test images."""
        return self.run.metrics

    @cached_property
    def golden(self) -> Path | None:
        """Returns the template given, else the training's shared one (colour-matched to its OK images), else None."""
        saved = self.run.path / TEMPLATE
        return self.template or (saved if saved.is_file() else None)

    @property
    def at_once(self) -> int:  # the batch size
        return at_once(self.model.at_once(self.judge.batch_size), self.judge.size)

    @cached_property
    def _images(self) -> ImageSet:
        """Returns an empty image set, which resizes pictures and assembles batches."""
        return self.judge.images([])

    def for_category(self, category: str | None) -> TrainedRun:
        """Returns the run with the threshold of one category. Raises UserError where it has none."""
        thresholds = self.threshold.categories
        if category is None:
            if thresholds:
                log.warning(
                    "%s has a threshold for each of %s, but the threshold for all of them is used: set category=...",
                    self.path, ", ".join(thresholds),
                )  # fmt: skip
            return self
        if self.exported and self.about.get("category") == category:
            return self
        if category not in thresholds:
            available = f"those of {', '.join(thresholds)}" if thresholds else "one for all images"
            raise UserError(f"{self.path} has no threshold for category '{category}', only {available}.")
        return replace(self, threshold=thresholds[category])

    def with_threshold(self, threshold: float | None, false_alarm_rate: float | None) -> TrainedRun:
        """Returns the run with another threshold; see `Threshold.moved`."""
        return replace(self, threshold=self.threshold.moved(threshold, false_alarm_rate))

    def with_region(self, roi: str | None, ignore: str | None) -> TrainedRun:
        """Restricts inspection to a part of the region inspected in training; the false-alarm rate still holds there.

        Changes the model of this run. Raises UserError for exported files, and where no pixel is left.
        """
        region = inspected(roi, ignore, self.judge.size, self.judge.resize)
        if region is not None and self.exported:
            raise UserError("roi and ignore cannot change an exported file: use them with the run's folder.")
        if region is not None:
            region = region.to(self.model.device)
            self.model.region = region if self.model.region is None else self.model.region & region
            if not self.model.region.any():
                raise UserError("roi and ignore exclude all pixels that were inspected in training.")
        return self

    def apply_mode(self, splits: Splits, own_template: bool = True) -> Splits:
        """Sets the samples' templates as the run's mode needs them: with `own_template` the run's, else their own."""
        if not self.judge.mode.with_template:
            return splits.with_template(None)
        return splits.with_template(self.golden) if own_template and self.golden else splits

    def open(self, path: Path, data: bytes | None = None) -> Picture:
        """Decodes an image file, or `data`, its content, where given. Raises UnreadableImage."""
        bits = self.data.get("bits")
        pixels = read_image(path, bits, data)
        resized = self._images.resized(pixels, path)
        return Picture(Sample(path, None, template=self.golden, bits=bits), pixels, resized)

    def answers(self, pictures: Sequence[Picture]) -> list[Judged]:
        """Applies the model to one batch of pictures; `inspect` finds their defects."""
        resized, samples = np.stack([p.resized for p in pictures]), [p.sample for p in pictures]
        shapes = [p.pixels.shape[:2] for p in pictures]
        batch = self._images.batch(samples, resized, np.zeros(resized.shape[:3], bool), shapes, range(len(samples)))
        anomaly_maps, scores = self.model.predict_batch(batch)
        maps, judged = anomaly_maps.float().cpu().numpy()[:, 0], []
        for k, picture in enumerate(pictures):
            score, whole, searched = float(scores[k]), maps[k].copy(), picture.pixels
            inside = (slice(0, whole.shape[0]), slice(0, whole.shape[1]))
            if batch.inside is not None:
                inside, searched = content(batch.inside[k]), picture.resized
            cut = np.ascontiguousarray(whole[inside])
            outcome = Outcome(picture.sample, score, self.threshold.nok(score), image=picture.pixels, map=cut)
            judged.append(Judged(outcome, (searched, whole), inside))
        return judged

    def inspect(self, judged: Judged) -> Judged:
        """Adds the defects, if the run has an inspector."""
        if self.inspector is None:
            return judged
        (pixels, anomaly_map), image = judged.inspected, judged.outcome.image
        assert image is not None
        extent = shown(image.shape[:2], self.judge.size, self.judge.resize)
        defects = self.inspector.inspect(anomaly_map, pixels, self.threshold.pixel, extent)
        return replace(judged, outcome=replace(judged.outcome, defects=defects))

    def overlay(self, judged: Judged) -> np.ndarray:
        """Draws the map over the picture, RGB at the picture's size."""
        outcome = judged.outcome
        assert outcome.image is not None and outcome.map is not None
        return overlay(outcome.image, outcome.map, self.threshold.pixel)

    def outlines(self, judged: Judged) -> np.ndarray | None:
        """Draws the defects into the picture they were found in; None where there are none."""
        if self.inspector is None or not judged.outcome.defects:
            return None
        return draw_defects(judged.inspected[0], judged.outcome.defects, self.inspector.settings.types)

    def record(self, judged: Judged) -> dict[str, Any]:
        """Returns image, score, nok, accepted (None without an inspector) and defects (worst first), JSON-ready.

        A defect's `box` is in px of the inspector's reference picture, `box_in_image` (x, y, width, height) in px of
        the image file.
        """
        outcome = judged.outcome
        accepted = self.inspector.accepts(outcome.defects) if self.inspector else None
        defects = [d.record() | {"box_in_image": self._in_image(d.box, judged)} for d in outcome.defects]
        image = str(outcome.sample.image)
        return {"image": image, "score": outcome.score, "nok": outcome.nok, "accepted": accepted, "defects": defects}

    def _in_image(self, box: tuple[int, int, int, int], judged: Judged) -> list[int]:
        assert self.inspector is not None and judged.outcome.image is not None
        corners = []
        for axis, start, length in ((1, box[0], box[2]), (0, box[1], box[3])):
            inside, size = judged.inside[axis], judged.outcome.image.shape[axis]
            scale = judged.inspected[1].shape[axis] / self.inspector.reference.shape[axis]
            ends = [(edge * scale - inside.start) * size for edge in (start, start + length)]
            corners.append([min(max(round(end / (inside.stop - inside.start)), 0), size) for end in ends])
        (left, right), (top, bottom) = corners
        return [left, top, right - left, bottom - top]


def open_run(path: str | Path, trusted: Sequence[str] = ()) -> TrainedRun:
    """Opens a finished run, with its model on its device, or a file that `export` wrote.

    trusted: packages besides this one whose code the run's configuration may name; see also `Exported`. Raises
    UserError if there is no finished training, or one that is damaged, of an older version or not trusted.
    """
    if file := exported_file(path):
        exported = Exported(file, trusted=trusted)
        settings = {**exported.about["settings"], "image_size": exported.size, "scoring": exported.about["settings"]}
        run, threshold = RunFolder(file.parent), Threshold.from_dict(exported.about["threshold"])
        return TrainedRun(run, read_judge(settings), cast(Model, exported), threshold, open_inspector(run.path))
    run = open_finished(path)
    check_targets(run.config, trusted)
    try:
        judge, threshold = read_judge(run.config), Threshold.from_dict(run.threshold)
        model = build_model(OmegaConf.create(run.config), weights="none")
        device = _device(instantiate(run.config["trainer"], _convert_="all"))
    except (AttributeError, KeyError, TypeError) as error:  # OmegaConf raises AttributeError for missing keys
        raise UserError(f"{run.path} was trained by an older version ({error} is missing): train it again.") from error
    try:
        tensors = load_file(run.path / MODEL)
    except SafetensorError as error:
        raise UserError(f"{run.path / MODEL} is damaged ({error}). Train the run again with force=true.") from error
    if not any(name.startswith("method.") for name in tensors):
        raise UserError(f"{run.path} was trained by an older version: train it again.")
    if judge.threads:
        torch.set_num_threads(judge.threads)
    model.load_state_dict(tensors)
    return TrainedRun(run, judge, model.to(device).eval(), threshold, open_inspector(run.path))


def _device(trainer: MakeTrainer) -> torch.device:
    try:
        return devices_of(trainer).first
    except UserError as error:
        log.warning("%s The CPU is used instead.", error)
        return torch.device("cpu")


def in_order(pool: ThreadPoolExecutor, work: Callable[[A], B], items: Iterable[A], ahead: int) -> Iterator[B]:
    """Like `pool.map`, but reads at most `ahead` items before their results are consumed."""
    source, pending = iter(items), deque[Future[B]]()
    for item in islice(source, ahead):
        pending.append(pool.submit(work, item))
    while pending:
        result = pending.popleft().result()
        for item in islice(source, 1):
            pending.append(pool.submit(work, item))
        yield result


def evaluate_run(trained: TrainedRun, test: Sequence[Sample], output: RunFolder, page: bool = True) -> Evaluation:
    """Measures a run on labelled images and writes the results to `output`, with report and figures if `page`."""
    judge = trained.judge
    settings = (judge.batch_size, judge.aupro_limit, trained.inspector)
    with output.stage("decode"):
        images = judge.images(test, "test")
    with output.stage("evaluate"):
        result = evaluate(trained.model, images, trained.threshold, *settings)
    with output.stage("report"):
        write_results(output, trained.model, result, Tracker(), page)
    return result
