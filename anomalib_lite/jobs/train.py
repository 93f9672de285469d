"""The verb train."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.data.fingerprint import DATA, describe, fingerprint
from anomalib_lite.data.sample import Splits
from anomalib_lite.data.splits import need_training_images
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app
from anomalib_lite.jobs.multirun import command
from anomalib_lite.jobs.quiet import seed_everything
from anomalib_lite.runs.atomic import atomic_path, write_json
from anomalib_lite.runs.chosen import chosen
from anomalib_lite.runs.environment import environment
from anomalib_lite.runs.folder import RunFolder, announce, run_hash
from anomalib_lite.runs.lock import alone
from anomalib_lite.runs.tracking import Tracker, track_again, tracked

if TYPE_CHECKING:  # the networks' libraries take seconds: they come when there is something to train
    from anomalib_lite.data.images import ImageSet
    from anomalib_lite.defects import DefectCollector
    from anomalib_lite.detectors.model import Model
    from anomalib_lite.jobs.evaluation import Evaluation
    from anomalib_lite.scoring import Threshold

log = logging.getLogger(__name__)

HELP = """Learns from OK images, sets the threshold on held-out OK images, measures on the test images.

Writes runs/<experiment_name>/<data>-<detector>-<backbone>-s<seed>-<hash>/ with report.html, metrics.json,
predictions.csv, defects.csv, figures/ and the model. A run that is done is not run again (force=true does); one that
was interrupted goes on from its last epoch.

  anomalib-lite train                                                    built-in product photographs
  anomalib-lite train data=mvtec_ad data.root=DIR data.category=bottle
  anomalib-lite train data=folder data.ok=ok data.nok='nok/*'
  anomalib-lite train mode=template teacher=finetuned tta=flips
  anomalib-lite train -m augment=none,flips tta=none,flips seed=0,1,2     TTA does not train again"""

# groups that a run's folder names where they are not left at their plain choice
PLAIN = {"mode": "no_template", "augment": "none", "generator": "none", "teacher": "frozen", "tta": "none"}


@app("train", HELP)
def main(cfg: DictConfig) -> float | None:
    """Returns the image AUROC, which sweepers maximise."""
    _check_numbers(cfg)
    splits = instantiate(cfg.data)
    need_training_images(splits)
    data_hash = fingerprint(splits)
    folder = _folder(cfg, data_hash)
    announce(folder)
    with alone(folder, inside=True):  # who is asked for the same run at the same time waits, and finds it done
        return _open(cfg, folder, splits, data_hash)


def _open(cfg: DictConfig, folder: Path, splits: Splits, data_hash: str) -> float | None:
    run = RunFolder(folder)
    if run.done and not cfg.force:
        log.info("already done: %s (force=true runs it again)", run.path)
        metrics = json.loads((run.path / "metrics.json").read_text())
        track_again(cfg, run.path, metrics, run.status)
        return metrics["image_auroc"]
    if cfg.force:
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    log.info("%s", run.path)
    from anomalib_lite.jobs.inference import use_threads

    seed_everything(cfg.seed)
    use_threads(cfg)
    run.start(cfg, environment(cfg.seed, data_hash) | chosen(), command("train"))
    write_json(run.path / DATA, describe(splits))
    with run.guarded(), tracked(cfg, run.path) as tracker:
        return _run(cfg, run, splits, data_hash, tracker)


def _run(cfg: DictConfig, run: RunFolder, splits: Splits, data_hash: str, tracker: Tracker) -> float | None:
    import torch

    from anomalib_lite.data.images import ImageSet, warn_near_copies
    from anomalib_lite.jobs.combinations import check_combination
    from anomalib_lite.jobs.defects import make_inspector, open_collector
    from anomalib_lite.jobs.evaluation import find_threshold
    from anomalib_lite.jobs.inference import MODEL, TEMPLATE, build_detector, device_of, image_size, save_model
    from anomalib_lite.jobs.inputs import make_inputs
    from anomalib_lite.jobs.outcome import conclude
    from anomalib_lite.jobs.training import train_detector
    from anomalib_lite.jobs.validation import hold_back, validate
    from anomalib_lite.report.generated import FOLDER as GENERATED

    untrained = build_detector(cfg, weights="none")
    check_combination(cfg, untrained)
    untrained.finish(torch.zeros(1, 1, 1, 1), image_size(cfg))  # a blur too wide for the images says so now
    with run.stage("inputs"):
        inputs = make_inputs(cfg, splits, data_hash, tracker)
    if inputs.teacher:
        run.status["teacher"] = json.loads(Path(inputs.teacher).with_name("outcome.json").read_text())
    if inputs.template:
        with atomic_path(run.path / TEMPLATE) as temporary:
            shutil.copyfile(inputs.template, temporary)
    if inputs.generated:
        shutil.copytree(inputs.generated, run.path / GENERATED, dirs_exist_ok=True)
    with run.stage("decode"):
        train, val, test = (ImageSet(s, image_size(cfg), cfg.ram_limit_mb, name) for name, s in inputs.splits)
        warn_near_copies(train, test)
    held_out, judging = hold_back(val) if cfg.validate else (val, None)
    detector: Model = build_detector(cfg, weights=inputs.teacher)
    if detector.augment is not None:
        detector.augment.restyler = inputs.restyler  # until the model is built with it
    if train_detector(cfg, run, detector, train, val, inputs, tracker.logger):
        tracker.log_history(run.path / "history.csv")
    detector.to(device_of(cfg)).eval()
    with run.stage("threshold"):
        threshold, levels = find_threshold(detector, held_out, cfg.batch_size, cfg.scoring.false_alarm_rate)
    with run.stage("inspector"):
        settings = OmegaConf.to_container(cfg.defects, resolve=True)
        make_inspector(settings, run.path, train, levels, inputs.template)
        book = open_collector(run.path, threshold)
    run.status["model_mb"] = round(save_model(run.path, detector, threshold) / 2**20, 2)
    log.info("saved: %s, %.1f MB", run.path / MODEL, run.status["model_mb"])
    result = _evaluate(cfg, run, detector, test, threshold, book)
    if judging is not None:
        with run.stage("validate"):
            result.metrics["validation"] = validate(detector, judging, cfg.scoring.aupro_limit)
    with run.stage("report"):
        conclude(cfg, run, detector, test, result, threshold, tracker, book, train)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)  # needed to resume alone
    return result.metrics["image_auroc"]


def _evaluate(
    cfg: DictConfig,
    run: RunFolder,
    detector: Model,
    test: ImageSet,
    threshold: Threshold,
    book: DefectCollector | None,
) -> Evaluation:
    from anomalib_lite.jobs.evaluation import evaluate_detector

    with run.stage("evaluate"):
        result = evaluate_detector(detector, test, threshold, cfg.batch_size, cfg.scoring.aupro_limit, book)
    if len(test):
        run.status["ms_per_image"] = round(1000 * result.seconds / len(test), 2)
    return result


def _check_numbers(cfg: DictConfig) -> None:
    """Errors: UserError for what must be a whole number, and is none or too small."""
    for name, least in (("seed", 0), ("batch_size", 1), ("detector.epochs", 0)):
        value = OmegaConf.select(cfg, name, default=least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{name} must be a whole number, {least} or more, not {value!r}.")


def _folder(cfg: DictConfig, data_fingerprint: str) -> Path:
    choices = HydraConfig.get().runtime.choices
    category = cfg.data.get("category")
    parts = [choices["data"], *([category] if isinstance(category, (str, int)) else category or [])]
    backbone = cfg.backbone.name if choices["backbone"] == "timm" else choices["backbone"]
    parts += [choices["detector"], backbone]
    parts += [f"{group}_{choices[group]}" for group, plain in PLAIN.items() if choices[group] != plain]
    parts += [f"s{cfg.seed}", run_hash(cfg, data_fingerprint)]
    if cfg.keep not in ("last", "best"):
        raise UserError(f"keep must be last or best, not '{cfg.keep}'.")
    return Path(cfg.paths.runs) / str(cfg.experiment_name) / "-".join(str(p).replace("/", "_") for p in parts)


if __name__ == "__main__":
    main()
