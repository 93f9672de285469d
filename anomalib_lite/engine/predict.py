"""A trained run: opened, shown data as its mode has it, and measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file

from anomalib_lite.data.images import inspected
from anomalib_lite.data.sample import Sample, Splits
from anomalib_lite.detectors.model import Model
from anomalib_lite.engine.build import Judge, build_model, read_judge
from anomalib_lite.engine.evaluate import Evaluation, evaluate, open_collector
from anomalib_lite.engine.results import conclude
from anomalib_lite.engine.trainer import MakeTrainer, devices_of
from anomalib_lite.engine.trust import check_targets
from anomalib_lite.errors import UserError
from anomalib_lite.export.session import Exported, exported_file
from anomalib_lite.runs.folder import MODEL, TEMPLATE, RunFolder, open_finished
from anomalib_lite.runs.tracking import Tracker
from anomalib_lite.scoring import Threshold

log = logging.getLogger(__name__)


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
    def exported(self) -> bool:
        """Whether it is a file that `export` wrote."""
        return bool(self.about)

    @property
    def about(self) -> dict[str, Any]:
        """What an exported file says of itself; of a run nothing."""
        return self.model.about if isinstance(self.model, Exported) else {}

    @property
    def known(self) -> dict[str, Any]:
        """What the training kept of its data."""
        return self.about["data"] if self.exported else self.run.data

    @property
    def metrics(self) -> dict[str, Any]:
        """What the run measured on its test images."""
        return self.run.metrics

    @property
    def golden(self) -> Path | None:
        """The template that all images of the training shared, in the colours of its OK images."""
        path = self.run.path / TEMPLATE
        return path if path.is_file() else None

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
    return TrainedRun(run, judge, model.to(device).eval(), threshold)


def _open_exported(exported: Exported) -> TrainedRun:
    about = exported.about
    judge = read_judge({**about["settings"], "image_size": about["size"], "scoring": about["settings"]})
    threshold = Threshold.from_dict(about["threshold"])
    return TrainedRun(RunFolder(exported.file.parent), judge, cast(Model, exported), threshold)


def _device(trainer: MakeTrainer) -> torch.device:
    try:
        return devices_of(trainer).first
    except UserError as error:
        log.warning("%s The CPU judges instead.", error)
        return torch.device("cpu")


def evaluate_run(trained: TrainedRun, test: Sequence[Sample], output: RunFolder, page: bool = True) -> Evaluation:
    """Measures a run on labelled images, and fills the output's folder. page: whether it gets figures and a page."""
    judge = trained.judge
    with output.stage("decode"):
        images = judge.images(test, "test")
    with output.stage("evaluate"):
        collector = open_collector(trained.run.path, trained.threshold)
        result = evaluate(trained.model, images, trained.threshold, judge.batch_size, judge.aupro_limit, collector)
    with output.stage("report"):
        conclude(output, trained.model, result, Tracker(), page)
    return result
