"""Fits a detector to OK images, sets its threshold and measures it; interrupted trainings resume."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.seed import isolate_rng
from safetensors.torch import load_file, save_file

from anomalib_lite.augment.colour_match import matched_template
from anomalib_lite.backbones.weights import find_file
from anomalib_lite.data.images import ImageSet, inspected, loader, warn_grey_and_colour, warn_near_copies
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.data.splits import digest, fingerprint, refuse_held_back, templates_of, unseen, weighted
from anomalib_lite.defects import LevelsOfMaps
from anomalib_lite.detectors.model import Model
from anomalib_lite.engine.build import Plan
from anomalib_lite.engine.evaluate import (
    Evaluation,
    evaluate,
    find_threshold,
    hold_back,
    lower_threshold,
    make_inspector,
    open_inspector,
    validate,
)
from anomalib_lite.engine.generate import generated_set, train_generator
from anomalib_lite.engine.results import write_results
from anomalib_lite.engine.review import without_worst
from anomalib_lite.engine.teacher import finetuned_weights
from anomalib_lite.engine.trainer import History, OnDevice, fit_model, make_trainer
from anomalib_lite.generators.base import Progress
from anomalib_lite.runs.artifacts import artifact, artifact_key, content_hash
from anomalib_lite.runs.atomic import atomic_path, write_json
from anomalib_lite.runs.checkpoints import resumable
from anomalib_lite.runs.folder import CHECKPOINTS, GENERATED, MODEL, TEMPLATE, THRESHOLD, RunFolder, version_note
from anomalib_lite.runs.tracking import Tracker
from anomalib_lite.scoring import Threshold

log = logging.getLogger(__name__)
WEIGHTS, SECONDS, HISTORY = "weights.safetensors", "seconds.json", "history.csv"


def fit(plan: Plan, run: RunFolder, splits: Splits, data_hash: str, tracker: Tracker) -> Evaluation:
    """Trains, sets the threshold on held-out OK images, measures on the test images, and writes the run's folder."""
    roi, ignore = (plan.settings.get(option) for option in ("roi", "ignore"))
    inspected(roi, ignore, plan.size, plan.resize, splits.train[0].image)  # reports mistakes before anything is trained
    if plan.reviewer:
        with run.stage("review"):
            samples = [*splits.train, *splits.val]  # not the ImageSet, so that its pixels are freed after the review
            splits, left_out = without_worst(plan.reviewer, splits, plan.images(samples, "to review"))
        data_hash = fingerprint(splits)  # what was trained on all images is not used again
        run.status["left_out"] = [str(image) for image in left_out]
        log.warning("left out the %d OK images that look least like the others, listed in status.json", len(left_out))
    splits = dataclasses.replace(splits, test=unseen(splits.test, [digest(image) for image in plan.missed]))
    with run.stage("inputs"):
        inputs = make_inputs(plan, splits, data_hash, tracker)
    model = plan.model(inputs.teacher, inputs.restyler)  # downloads the backbone's weights if needed
    _record_inputs(run, inputs, plan.settings["backbone"])
    tiled = model.tiling is not None  # such images are too large to keep in memory
    with run.stage("decode"):
        train, val, test = (
            plan.images(samples, name, spool=tiled and name != "test", keep=not tiled)
            for name, samples in inputs.splits
        )
        warn_near_copies(train, test)
        warn_grey_and_colour(train, test)
    held_out, validation = hold_back(val) if plan.validate else (val, None)
    train_model(plan, run, model, train, val, inputs, tracker)
    model.to(plan.devices.first).eval()
    threshold, levels = _set_threshold(plan, run, model, held_out, inputs.template)
    if plan.reviewer:
        threshold = threshold.noted(
            f"the false-alarm rate holds for images like those kept: {len(left_out)} OK images were left out as NOK"
        )
    with run.stage("inspector"):
        make_inspector(plan.settings["defects"], run.path, train, levels, inputs.template)
        inspector = open_inspector(run.path)
    save_model(run, model, threshold)
    with run.stage("evaluate"):
        result = evaluate(model, test, threshold, plan.batch_size, plan.aupro_limit, inspector)
    if len(test):
        run.status["ms_per_image"] = round(1000 * result.seconds / len(test), 2)
    if validation is not None:
        with run.stage("validate"):
            result.metrics["validation"] = validate(model, validation, plan.aupro_limit)
    with run.stage("report"):
        write_results(run, model, result, tracker, plan.tracking.kind != "none", train)
    shutil.rmtree(run.path / CHECKPOINTS, ignore_errors=True)  # only needed to resume
    return result


def _set_threshold(
    plan: Plan, run: RunFolder, model: Model, held_out: ImageSet, template: Path | None
) -> tuple[Threshold, LevelsOfMaps]:
    """Sets the threshold on held-out OK images, and lowers it to flag the NOK images of `missed`."""
    bits = held_out.samples[0].bits
    missed = plan.images([Sample(image, NOK, template=template, bits=bits) for image in plan.missed], "missed")
    if len(missed) and not model.tiling:  # with tiles it is unknown which one holds the defect
        model.method.reconsider(OnDevice(loader(missed, plan.batch_size), plan.devices.first))
        run.status |= model.method.notes
    with run.stage("threshold"):
        threshold, levels = find_threshold(model, held_out, plan.batch_size, *plan.rule)
        if len(missed):
            threshold = lower_threshold(model, threshold, missed, plan.batch_size)
    return threshold, levels


def train_model(
    plan: Plan, run: RunFolder, model: Model, train: ImageSet, val: ImageSet, inputs: Inputs, tracker: Tracker
) -> None:
    """Prepares the model's statistics, trains it if its method has a training, and calibrates it.

    Generated images and the template only take part in the training; statistics use real images. The trained weights
    are an artifact, so runs that differ only in later steps (`Method.after_training`, scoring, tta) train once. A run
    that starts from another one loads that model and calibrates it on all images, as if fitted to all at once.
    """
    device, method = plan.devices.first, model.method
    in_order = OnDevice(loader(model.method_inputs(train.part(slice(inputs.real))), plan.batch_size), device)
    if plan.start_from:
        model.load_state_dict(load_file(plan.start_from))
    else:
        with run.stage("prepare"):
            model.to(device).prepare(in_order)
        if method.steps:
            method.epochs = -(-method.steps // len(loader(model.method_inputs(train), plan.batch_size, plan.seed)))
    if method.epochs and not plan.start_from:
        trained = plan.artifacts / f"trained-{_training_key(plan, model, inputs)}"
        logger = None if plan.devices.shared else tracker.logger  # a tracker belongs to the process that opened it
        with run.stage("train"):
            trained_now = artifact(
                trained, lambda folder: _train(plan, run, model, train, val, logger, folder), replace=plan.force
            )
            if not trained_now:
                log.info("using the weights of an earlier training: %s", trained)
                if note := version_note(RunFolder(trained).environment):
                    log.warning("these weights were %sforce=true trains again", note)
                with atomic_path(run.path / HISTORY) as temporary:
                    shutil.copyfile(trained / HISTORY, temporary)
        method.load_state_dict(load_file(trained / WEIGHTS), strict=False)
        run.status["train_seconds"] = json.loads((trained / SECONDS).read_text())
        if not trained_now or plan.devices.shared:
            tracker.log_history(run.path / HISTORY)
    with run.stage("calibrate"):
        model.to(device).calibrate(in_order, plan.batch_size)  # Lightning has moved it to the CPU
    run.status |= method.notes


def save_model(run: RunFolder, model: Model, threshold: Threshold) -> None:
    """Writes model.safetensors and threshold.json to the run's folder."""
    with atomic_path(run.path / MODEL) as temporary:
        save_file(_on_cpu(model.state_dict()), temporary)
    write_json(run.path / THRESHOLD, threshold.to_dict())
    run.status["model_mb"] = round((run.path / MODEL).stat().st_size / 2**20, 2)
    log.info("saved the model: %s, %.1f MB", run.path / MODEL, run.status["model_mb"])


def _record_inputs(run: RunFolder, inputs: Inputs, backbone: Mapping[str, Any]) -> None:
    """Copies template and generated images to the run's folder, and records teacher and weights in its status."""
    if inputs.teacher:
        run.status["teacher"] = json.loads(inputs.teacher.with_name("outcome.json").read_text())
    if inputs.template:
        with atomic_path(run.path / TEMPLATE) as temporary:
            shutil.copyfile(inputs.template, temporary)
    if inputs.generated:
        shutil.copytree(inputs.generated, run.path / GENERATED, dirs_exist_ok=True)
    if {"name", "weights"} <= set(backbone):  # else it is a custom backbone
        file = find_file(backbone["name"], backbone["weights"])
        if file is not None and file.is_file():
            run.status["weights"] = {"file": file.name, "sha256": content_hash(file)}


def _training_key(plan: Plan, model: Model, inputs: Inputs) -> str:
    method = {k: v for k, v in plan.settings["detector"].items() if k not in model.method.after_training}
    shared = [plan.settings[key] for key in ("backbone", "trainer", "threads", "tiling", "resize")]
    augment = plan.settings["augment"] if model.augment else None
    return artifact_key(method, *shared, augment, plan.size, plan.batch_size, plan.seed, plan.keep, *inputs.key)


def _train(plan: Plan, run: RunFolder, model: Model, train: ImageSet, val: ImageSet, logger: Any, folder: Path) -> None:
    """Trains the model, and writes its weights, history and duration to the artifact's folder."""
    history, checkpoints = History(run.path / HISTORY), run.path / CHECKPOINTS
    # saves every epoch, whereas Lightning's save_last only saves when the monitored value improves
    savers = [ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)]
    if plan.keep == "best":  # first in the list, so that last.ckpt stores which epoch was the best
        best = ModelCheckpoint(checkpoints, filename="best", monitor="val_loss", enable_version_counter=False)
        savers.insert(0, best)
    trainer = make_trainer(
        plan.trainer,
        [history, *savers, Progress()],
        logger,
        max_epochs=model.method.epochs,
        default_root_dir=run.path,
        log_every_n_steps=1,
    )
    last = resumable(checkpoints)
    fit_model(
        trainer,
        model,
        loader(model.method_inputs(train), plan.batch_size, shuffle_seed=plan.seed),
        loader(model.method_inputs(val), plan.batch_size),
        ckpt_path=last,
        weights_only=True,
    )
    if plan.keep == "best":
        checkpoint = torch.load(checkpoints / "best.ckpt", map_location="cpu", weights_only=True)
        model.load_state_dict(checkpoint["state_dict"])
    save_file(_on_cpu(model.method.trained_state()), folder / WEIGHTS)
    shutil.copy(run.path / HISTORY, folder)
    write_json(folder / SECONDS, round(history.seconds, 3))
    write_json(folder / "environment.json", run.environment)


def _on_cpu(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


@dataclass(frozen=True)
class Inputs:
    """Training data of a detector."""

    splits: Splits  # training images are in the order real, generated, template, with weights by origin
    real: int  # number of real training images
    teacher: Path | None  # file of the fine-tuned backbone's weights; None: the configured source
    template: Path | None  # the golden image; None without one, or where each image has a template of its own
    generated: Path | None  # report folder of the generated images
    restyler: Callable[..., Any] | None  # see `Augment`
    key: tuple[str, list[Any]]  # identifies the training, together with the configuration; JSON-ready


def make_inputs(plan: Plan, splits: Splits, data_hash: str, tracker: Tracker | None = None) -> Inputs:
    """Collects the training data, training the generator and the teacher where their artifacts do not exist."""
    splits, template, golden = _apply_mode(plan, splits)
    arguments = (plan.order, splits.train, template, data_hash, plan.artifacts, tracker)
    drawn, report, restyler, restyler_key = list[Sample](), None, None, list[str]()
    with isolate_rng():  # so that the run's random draws do not depend on whether these were trained just now
        if plan.generates:
            images = generated_set(*arguments)
            drawn, report = images.samples, images.report
        if plan.restyles:
            folder, _ = train_generator(*arguments)
            plan.order.generator.load(folder)
            restyler, restyler_key = plan.order.generator.restyle, [folder.name]  # type: ignore[attr-defined]  # only generators that restyle get here
    train = weighted([*splits.train, *drawn, *golden], plan.mode)
    real = sum(s.origin == "real" for s in train)
    splits = dataclasses.replace(splits, train=train)
    teacher = finetuned_weights(plan.teaching, splits, data_hash, plan.artifacts) if plan.teaching else None
    key = [
        sorted((s.origin, s.weight, s.image.parent.name, s.image.name) for s in train[real:]),
        teacher.parent.name if teacher else None,
        *restyler_key,
    ]
    return Inputs(splits, real, teacher, template, report, restyler, (data_hash, key))


def _apply_mode(plan: Plan, splits: Splits) -> tuple[Splits, Path | None, list[Sample]]:
    """Returns (splits with templates set by the mode, the template that all images share, templates to train on)."""
    if not plan.mode.with_template:
        return splits.with_template(None), None, []
    templates = templates_of(splits)
    refuse_held_back(templates, splits)
    template = None
    if len(templates) == 1:
        template = matched_template(templates[0], splits.train, plan.artifacts, plan.mode.colours)
        splits, templates = splits.with_template(template), [template]
    # with a template for each image, only those of training images
    trainable = {s.template for s in splits.train} - {s.image for s in splits.train}
    bits, trained = splits.train[0].bits, [t for t in templates if t in trainable]
    return splits, template, [Sample(t, OK, template=t, origin="template", bits=bits) for t in trained]
