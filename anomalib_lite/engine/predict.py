"""A trained run: opened, shown data as its mode has it, and asked about any images."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from anomalib_lite.data.decode import UnreadableImage, read_image
from anomalib_lite.data.files import output_names
from anomalib_lite.data.fingerprint import known_data
from anomalib_lite.data.images import ImageSet, content, inspected, loader, to_pixels
from anomalib_lite.data.mode import with_template, without_template
from anomalib_lite.data.sample import Outcome, Sample, Splits
from anomalib_lite.defects import DefectCollector
from anomalib_lite.defects.drawing import draw_defects
from anomalib_lite.detectors.model import Model
from anomalib_lite.engine.build import Judge, build_judge
from anomalib_lite.engine.evaluate import Evaluation, evaluate, open_collector, run_over
from anomalib_lite.engine.results import conclude
from anomalib_lite.engine.trainer import devices_of
from anomalib_lite.engine.trust import check_targets
from anomalib_lite.errors import UserError
from anomalib_lite.report.pictures import overlay
from anomalib_lite.runs.atomic import atomic_path, write_text
from anomalib_lite.runs.folder import MODEL, TEMPLATE, RunFolder, open_csv, open_finished
from anomalib_lite.runs.tracking import Tracker
from anomalib_lite.scoring import Threshold

log = logging.getLogger(__name__)

TABLES = ("predictions.csv", "defects.csv", "defects.json")
OWNED = ".predictions"  # marks a folder while predictions are written to it
PICTURES = {"overlays": "*.png", "maps": "*.tiff", "defects": "*.png"}  # folders of an output, and what lies in them


@dataclass(frozen=True)
class TrainedRun:
    """A finished training, ready to judge images."""

    run: RunFolder
    judge: Judge
    model: Model
    threshold: Threshold

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def metrics(self) -> dict[str, Any]:
        """What the run measured on its test images."""
        return self.run.metrics

    @property
    def golden(self) -> Path | None:
        """The template that all images of the training shared, in the colours of its OK images."""
        path = self.run.path / TEMPLATE
        return path if path.is_file() else None

    def at(self, threshold: float | None, false_alarm_rate: float | None) -> TrainedRun:
        """The same run with another threshold; see `Threshold.moved`."""
        return replace(self, threshold=self.threshold.moved(threshold, false_alarm_rate))

    def within(self, roi: str | None, ignore: str | None) -> TrainedRun:
        """The same run, which inspects a part of what it inspected in training: its promise still holds there."""
        region = inspected(roi, ignore, self.judge.size, self.judge.resize)
        if region is not None:
            region = region.to(self.model.device)
            self.model.region = region if self.model.region is None else self.model.region & region
            if not self.model.region.any():
                raise UserError("roi and ignore leave no pixel of those that the training inspected.")
        return self

    def shown(self, splits: Splits, own: bool = True) -> Splits:
        """Data as the run's mode shows it. own: whether the run's template is the images', too."""
        if not self.judge.mode.with_template:
            return without_template(splits)
        return with_template(splits, self.golden) if own and self.golden else splits


def open_run(path: str | Path, trusted: Sequence[str] = ()) -> TrainedRun:
    """A finished run with its model on its device. The backbone's weights come from the run.

    trusted: packages whose code the run's configuration may name, beside this one.
    Errors: UserError where there is no finished training, where one of its files is torn or of an older version, or
    where its configuration names code that is not trusted.
    """
    run = open_finished(path)
    check_targets(run.config, trusted)
    try:
        judge = build_judge(run.config)
        threshold = Threshold.from_dict(run.threshold)
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
    judge.model.load_state_dict(tensors)
    return TrainedRun(run, judge, judge.model.to(_device(judge)).eval(), threshold)


def evaluate_run(trained: TrainedRun, test: Sequence[Sample], output: RunFolder, page: bool = True) -> Evaluation:
    """Measures a run on labelled images, and fills the output's folder. page: whether it gets figures and a page."""
    judge = trained.judge
    with output.stage("decode"):
        images = ImageSet(test, judge.size, judge.ram_limit_mb, "test", judge.resize)
    with output.stage("evaluate"):
        collector = open_collector(trained.run.path, trained.threshold)
        result = evaluate(trained.model, images, trained.threshold, judge.batch_size, judge.aupro_limit, collector)
    with output.stage("report"):
        conclude(output, trained.model, result, trained.threshold, Tracker(), page, collector)
    return result


def predict(
    trained: TrainedRun, paths: Sequence[Path], output: Path, template: Path | None, overlays: bool, maps: bool
) -> list[Outcome]:
    """Judges images, and writes predictions.csv, defects.*, overlays/, defects/ and maps/ to the output folder.

    What an earlier call wrote there is removed first: results of two calls never lie mixed.

    Args:
        trained: The run that judges.
        paths: Readable images.
        output: Folder to write to.
        template: The golden image; None: the run's own.
        overlays: Whether overlays/ and defects/ are drawn.
        maps: Whether maps/ are written.
    """
    make_room(output, paths)
    judge, names, outcomes = trained.judge, output_names(paths), []
    golden, bits = template or trained.golden, known_data(trained.run.path).get("bits")
    samples = [Sample(p, None, template=golden, bits=bits) for p in paths]
    images = ImageSet(samples, judge.size, ram_limit_mb=0, resize=judge.resize)
    collector = open_collector(trained.run.path, trained.threshold)
    for batch, prediction in run_over(
        trained.model, loader(images, trained.model.at_once(judge.batch_size)), "predict"
    ):
        for k, index in enumerate(batch.index.tolist()):
            score, map = float(prediction.score[k]), prediction.map[k, 0].numpy()
            outcome = Outcome(batch.samples[k], score, trained.threshold.nok(score))
            boxed = None if batch.inside is None else (to_pixels(batch.image[k : k + 1])[0], map)
            if batch.inside is not None:
                map = np.ascontiguousarray(map[content(batch.inside[k])])
            write = _Writer(output, names[index], paths[index], map, trained.threshold.pixel, boxed)
            if maps:
                _write_pixels(write.place("maps", "tiff"), map)
            if overlays:
                write.overlay()
            outcomes.append(write.inspected(outcome, collector, overlays) if collector else outcome)
    if collector is not None:
        collector.write(output)
    _write_table(output / TABLES[0], outcomes)
    (output / OWNED).unlink()  # the table marks the folder from now on
    return outcomes


def readable(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Those that can be decoded, and what is wrong with the others. Errors: UserError where none can."""

    def trouble(path: Path) -> str | None:
        try:
            read_image(path)
        except UnreadableImage as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(trouble, paths), "check images", len(paths), delay=2, leave=False))
    good = [path for path, error in zip(paths, found, strict=True) if error is None]
    broken = [error for error in found if error is not None]
    if not good:
        raise UserError("None of the images can be read:\n  " + "\n  ".join(broken))
    return good, broken


def make_room(output: Path, images: Sequence[Path]) -> None:
    """Removes what an earlier prediction wrote, and nothing else.

    Errors: UserError where one of the images that are to be judged is among that.
    """
    folders = [(output / name).resolve() for name in PICTURES]
    for image in images:
        if any(image.resolve().is_relative_to(folder) for folder in folders):
            raise UserError(f"{image} lies where predictions are written to: choose another output than {output}.")
    if (output / OWNED).is_file() or (output / TABLES[0]).is_file():
        for name in TABLES:
            (output / name).unlink(missing_ok=True)
        for folder, pattern in zip(folders, PICTURES.values(), strict=True):
            for picture in folder.rglob(pattern):
                picture.unlink()
    write_text(output / OWNED, "A prediction began here and has not ended: the next one replaces its pictures.\n")


@dataclass(frozen=True)
class _Writer:
    """Pictures of one image, at its own resolution; of a letterboxed one the defects as it was seen.

    boxed: the letterboxed picture, and its whole map.
    """

    output: Path
    name: str
    image: Path
    map: np.ndarray
    threshold: float
    boxed: tuple[np.ndarray, np.ndarray] | None = None

    def place(self, folder: str, suffix: str) -> Path:
        return self.output / folder / f"{self.name}.{suffix}"

    def overlay(self) -> None:
        _write_pixels(self.place("overlays", "png"), _bgr(overlay(read_image(self.image), self.map, self.threshold)))

    def inspected(self, outcome: Outcome, collector: DefectCollector, draw: bool) -> Outcome:
        """The outcome with its defects; their outlines are drawn where there are any."""
        pixels, map = self.boxed or (read_image(self.image), self.map)
        found = collector.add(replace(outcome, image=pixels, map=map)).defects
        if found and draw:
            _write_pixels(
                self.place("defects", "png"), _bgr(draw_defects(pixels, found, collector.inspector.settings.types))
            )
        return replace(outcome, defects=tuple(found))


def _device(judge: Judge) -> torch.device:
    try:
        return devices_of(judge.trainer).first
    except UserError as error:
        log.warning("%s The CPU judges instead.", error)
        return torch.device("cpu")


def _bgr(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)


def _write_pixels(path: Path, pixels: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), pixels):
            raise UserError(f"{path.absolute()} cannot be written: is the disk full?")


def _write_table(path: Path, outcomes: Sequence[Outcome]) -> None:
    with atomic_path(path) as temporary, open_csv(temporary) as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "score", "nok"])
        writer.writerows((o.sample.image, repr(o.score), int(o.nok)) for o in outcomes)
