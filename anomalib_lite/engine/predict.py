"""A trained run: opened, asked about pictures, shown data as its mode has it, and measured."""

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
from anomalib_lite.data.images import ImageSet, at_once, content, inspected
from anomalib_lite.data.sample import Outcome, Sample, Splits
from anomalib_lite.defects import Inspector
from anomalib_lite.defects.collect import draw_defects
from anomalib_lite.detectors.model import Model
from anomalib_lite.engine.build import Judge, build_model, read_judge
from anomalib_lite.engine.evaluate import Evaluation, evaluate, open_inspector
from anomalib_lite.engine.results import conclude
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
    """A decoded file: pixels at its own size, uint8 (H, W, 3), and as the detector sees it."""

    sample: Sample
    pixels: np.ndarray
    shown: np.ndarray


@dataclass(frozen=True)
class Judged:
    """outcome: with picture and map, its defects once `inspect` has found them. seen: the picture and the map that
    defects are found in: of a letterboxed one as the detector saw it. inside: rows and columns of `seen` that hold the
    picture.
    """

    outcome: Outcome
    seen: tuple[np.ndarray, np.ndarray]
    inside: tuple[slice, slice]


@dataclass(frozen=True)
class TrainedRun:
    """A finished training, ready to judge images. All but `answers` may be called by several threads at once.

    inspector: finds defects in maps; None where there is none. template: the golden image; None: the run's own.
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
        """Whether it is a file that `export` wrote."""
        return bool(self.about)

    @property
    def about(self) -> dict[str, Any]:
        """What an exported file says of itself; of a run nothing."""
        return self.model.about if isinstance(self.model, Exported) else {}

    @cached_property
    def known(self) -> dict[str, Any]:
        """What the training kept of its data: read once, not for each picture."""
        return self.about["data"] if self.exported else self.run.data

    @property
    def metrics(self) -> dict[str, Any]:
        """What the run measured on its test images."""
        return self.run.metrics

    @cached_property
    def golden(self) -> Path | None:
        """The template given, or the one that all images of the training shared, in the colours of its OK images."""
        own = self.run.path / TEMPLATE
        return self.template or (own if own.is_file() else None)

    @property
    def at_once(self) -> int:
        """Pictures that are judged together."""
        return at_once(self.model.at_once(self.judge.batch_size), self.judge.size)

    @cached_property
    def _images(self) -> ImageSet:
        """How pictures become batches."""
        return self.judge.images([])

    def of(self, category: str | None) -> TrainedRun:
        """The same run with the threshold of one of its products. Errors: UserError where there is none of its own."""
        own = self.threshold.categories
        if category is None:
            if own:
                said = "the threshold of all together judges these images: name what they show with category=..."
                log.warning("%s has a threshold for each of %s; %s", self.path, ", ".join(own), said)
            return self
        if category not in own:
            known = f"those of {', '.join(own)}" if own else "one of all images alone"
            raise UserError(f"{self.path} has no threshold of category '{category}', but {known}.")
        return replace(self, threshold=own[category])

    def at(self, threshold: float | None, false_alarm_rate: float | None) -> TrainedRun:
        """The same run with another threshold; see `Threshold.moved`."""
        return replace(self, threshold=self.threshold.moved(threshold, false_alarm_rate))

    def within(self, roi: str | None, ignore: str | None) -> TrainedRun:
        """The same run, which inspects a part of what it inspected in training: its promise still holds there."""
        region = inspected(roi, ignore, self.judge.size, self.judge.resize)
        if region is not None and self.exported:
            raise UserError("What an exported file inspects lies inside it: take roi and ignore with the run itself.")
        if region is not None:
            region = region.to(self.model.device)
            self.model.region = region if self.model.region is None else self.model.region & region
            if not self.model.region.any():
                raise UserError("roi and ignore leave no pixel of those that the training inspected.")
        return self

    def shown(self, splits: Splits, own: bool = True) -> Splits:
        """Data as the run's mode shows it. own: whether the run's template is the images', too."""
        if not self.judge.mode.with_template:
            return splits.with_template(None)
        return splits.with_template(self.golden) if own and self.golden else splits

    def open(self, path: Path, data: bytes | None = None) -> Picture:
        """A file, or the content of one that is called so. Errors: UnreadableImage."""
        bits = self.known.get("bits")
        pixels = read_image(path, bits, data)
        shown = self._images.resized(pixels, path)
        return Picture(Sample(path, None, template=self.golden, bits=bits), pixels, shown)

    def answers(self, pictures: Sequence[Picture]) -> list[Judged]:
        """The model's answers, without defects."""
        shown, samples = np.stack([p.shown for p in pictures]), [p.sample for p in pictures]
        shapes = [p.pixels.shape[:2] for p in pictures]
        batch = self._images.batch(samples, shown, np.zeros(shown.shape[:3], bool), shapes, range(len(samples)))
        map, score = self.model.predict_batch(batch)
        maps, judged = map.float().cpu().numpy()[:, 0], []
        for k, picture in enumerate(pictures):
            value, whole = float(score[k]), maps[k].copy()
            inside = (slice(0, whole.shape[0]), slice(0, whole.shape[1]))
            seen = (picture.pixels, whole)
            if batch.inside is not None:
                inside, seen = content(batch.inside[k]), (picture.shown, whole)
            own = np.ascontiguousarray(whole[inside])
            nok = self.threshold.nok(value)
            judged.append(Judged(Outcome(picture.sample, value, nok, image=picture.pixels, map=own), seen, inside))
        return judged

    def inspect(self, judged: Judged) -> Judged:
        """The same with its defects; without an inspector there are none."""
        if self.inspector is None:
            return judged
        pixels, map = judged.seen
        defects = self.inspector.inspect(map, pixels, self.threshold.pixel)
        return replace(judged, outcome=replace(judged.outcome, defects=defects))

    def overlay(self, judged: Judged) -> np.ndarray:
        """The map over the picture, RGB at the picture's own size."""
        outcome = judged.outcome
        assert outcome.image is not None and outcome.map is not None
        return overlay(outcome.image, outcome.map, self.threshold.pixel)

    def outlines(self, judged: Judged) -> np.ndarray | None:
        """The defects drawn into the picture that they were found in; None where there are none."""
        if self.inspector is None or not judged.outcome.defects:
            return None
        return draw_defects(judged.seen[0], judged.outcome.defects, self.inspector.settings.types)

    def record(self, judged: Judged) -> dict[str, Any]:
        """JSON-ready: image, score, nok, accepted (None without an inspector), and defects, the worst first.

        A defect's `box` is in px of the inspection, `box_in_image` (x, y, width, height) in those of the file.
        """
        outcome = judged.outcome
        accepted = self.inspector.accepts(outcome.defects) if self.inspector else None
        defects = [d.record() | {"box_in_image": self._in_image(d.box, judged)} for d in outcome.defects]
        where = str(outcome.sample.image)
        return {"image": where, "score": outcome.score, "nok": outcome.nok, "accepted": accepted, "defects": defects}

    def _in_image(self, box: tuple[int, int, int, int], judged: Judged) -> list[int]:
        assert self.inspector is not None and judged.outcome.image is not None
        sides = []
        for axis, (start, length) in enumerate(((box[1], box[3]), (box[0], box[2]))):
            inside, own = judged.inside[axis], judged.outcome.image.shape[axis]
            scale = judged.seen[1].shape[axis] / self.inspector.reference.shape[axis]
            ends = [
                (edge * scale - inside.start) * own / (inside.stop - inside.start) for edge in (start, start + length)
            ]
            first, last = (min(max(round(end), 0), own) for end in ends)
            sides.append((first, last - first))
        return [sides[1][0], sides[0][0], sides[1][1], sides[0][1]]


def open_run(path: str | Path, trusted: Sequence[str] = ()) -> TrainedRun:
    """A finished run with its model on its device, or what `export` wrote. The backbone's weights come from the run.

    trusted: packages whose code the run's configuration may name, beside this one; see also `Exported`.
    Errors: UserError where there is no finished training, where one of its files is torn or of an older version, or
    where its configuration names code that is not trusted.
    """
    if file := exported_file(path):
        return _open_exported(Exported(file, trusted=trusted))
    run = open_finished(path)
    check_targets(run.config, trusted)
    try:
        judge, threshold = read_judge(run.config), Threshold.from_dict(run.threshold)
        model = build_model(OmegaConf.create(run.config), weights="none")
        device = _device(instantiate(run.config["trainer"], _convert_="all"))
    except (AttributeError, KeyError, TypeError) as error:  # OmegaConf's for a key that is missing is both
        raise UserError(f"{run.path} was trained by an older version ({error} is missing): train it again.") from error
    try:
        tensors = load_file(run.path / MODEL)
    except SafetensorError as error:
        raise UserError(f"{run.path / MODEL} is torn ({error}). Train the run again with force=true.") from error
    if not any(name.startswith("method.") for name in tensors):
        raise UserError(f"{run.path} was trained by an older version: train it again.")
    if judge.threads:
        torch.set_num_threads(judge.threads)
    model.load_state_dict(tensors)
    return TrainedRun(run, judge, model.to(device).eval(), threshold, open_inspector(run.path))


def _open_exported(exported: Exported) -> TrainedRun:
    about = exported.about
    judge = read_judge({**about["settings"], "image_size": about["size"], "scoring": about["settings"]})
    threshold = Threshold.from_dict(about["threshold"])
    run = RunFolder(exported.file.parent)
    return TrainedRun(run, judge, cast(Model, exported), threshold, open_inspector(run.path))


def _device(trainer: MakeTrainer) -> torch.device:
    try:
        return devices_of(trainer).first
    except UserError as error:
        log.warning("%s The CPU judges instead.", error)
        return torch.device("cpu")


def in_order(pool: ThreadPoolExecutor, work: Callable[[A], B], items: Iterable[A], ahead: int) -> Iterator[B]:
    """`pool.map` that takes no more than `ahead` items before their results are asked for."""
    source, waiting = iter(items), deque[Future[B]]()
    for item in islice(source, ahead):
        waiting.append(pool.submit(work, item))
    while waiting:
        done = waiting.popleft().result()
        for item in islice(source, 1):
            waiting.append(pool.submit(work, item))
        yield done


def evaluate_run(trained: TrainedRun, test: Sequence[Sample], output: RunFolder, page: bool = True) -> Evaluation:
    """Measures a run on labelled images, and fills the output's folder. page: whether it gets figures and a page."""
    judge = trained.judge
    with output.stage("decode"):
        images = judge.images(test, "test")
    with output.stage("evaluate"):
        settings = (judge.batch_size, judge.aupro_limit, trained.inspector)
        result = evaluate(trained.model, images, trained.threshold, *settings)
    with output.stage("report"):
        conclude(output, trained.model, result, Tracker(), page)
    return result
