"""anomalib-lite train: fit a detector to OK images and measure it."""

import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.data.decode import read_image
from anomalib_lite.data.files import expand
from anomalib_lite.data.sample import Splits
from anomalib_lite.data.splits import describe, fingerprint, need_training_images
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app, say, texts
from anomalib_lite.runs.artifacts import exclusive_lock
from anomalib_lite.runs.atomic import write_json
from anomalib_lite.runs.folder import (
    CHECKPOINTS,
    DATA,
    MODEL,
    RunFolder,
    announce,
    environment,
    folder_name,
    hydra_choices,
    open_finished,
    run_hash,
    version_note,
)
from anomalib_lite.runs.tracking import track_again, tracked
from anomalib_lite.settings.training import WandB

log = logging.getLogger(__name__)

HELP = """Trains on OK images, sets the threshold on held-out OK images, and measures on the test images.

Writes runs/<experiment_name>/<data>-<detector>-<backbone>-s<seed>-<hash>/ with report.html, metrics.json,
predictions.csv, defects.csv, figures/ and the model. A finished run is not repeated (force=true repeats it); an
interrupted one resumes after its last epoch.

  anomalib-lite train                                                    built-in product photographs
  anomalib-lite train data=mvtec_ad data.root=DIR data.category=bottle
  anomalib-lite train data=folder data.ok=ok data.nok='nok/*'
  anomalib-lite train detector=stfpm mode=template teacher=finetuned tta=flips
  anomalib-lite train start_from=runs/default/... data=folder data.ok=new missed=passed_by_mistake/
  anomalib-lite train -m detector=stfpm augment=none,flips tta=none,flips     TTA reuses the trained weights"""

# settings that a run with start_from may set, in addition to its data
BESIDE_DATA = (
    "paths", "tracking", "experiment_name", "force", "threads", "ram_limit_mb",
    "start_from", "missed", "contamination", "trust",
)  # fmt: skip
# group -> default option; the name of a run's folder lists the groups with another option
PLAIN = {"mode": "no_template", "augment": "none", "generator": "none", "teacher": "frozen", "tta": "none"}
PLAIN["tiling"] = "none"


@app("train", HELP)
def main(cfg: DictConfig) -> float | None:
    """Returns the image AUROC, which sweepers maximise."""
    return train(cfg).metrics["image_auroc"]


def train(cfg: DictConfig) -> RunFolder:
    """Trains the run of a configuration, unless it is done already, and returns it."""
    earlier = open_finished(str(cfg.start_from)) if cfg.start_from else None
    if earlier is not None:
        cfg = _with_more_data(cfg, earlier)
    splits: Splits = instantiate(cfg.data)
    need_training_images(splits)
    if cfg.missed and any(sample.category for sample in splits.train):
        raise UserError(
            "missed=... lowers one threshold, but each of several categories has its own: train the category that the "
            "missed images belong to alone, e.g. data.category=bottle."
        )
    if cfg.image_size == "native":
        cfg.image_size, cfg.resize = list(read_image(splits.train[0].image).shape[:2]), "none"
    data_hash = fingerprint(splits)
    folder = _folder(cfg, data_hash, earlier)
    announce(folder)
    with exclusive_lock(folder, inside=True):  # another process that trains the same run waits, and then finds it done
        run = RunFolder(folder)
        if run.done and not cfg.force:
            log.info("already done: %s (%sforce=true repeats it)", run.path, version_note(run.environment))
            track_again(WandB(**cfg.tracking), run)
            say(run.path)
        else:
            _train(cfg, run, splits, data_hash, earlier)
    return run


def _train(cfg: DictConfig, run: RunFolder, splits: Splits, data_hash: str, earlier: RunFolder | None) -> None:
    log.info("%s", run.path)
    # imported here, because torch and Lightning take seconds, which a finished run need not wait for
    from anomalib_lite.engine.build import build_plan
    from anomalib_lite.engine.fit import fit
    from anomalib_lite.engine.results import in_words
    from anomalib_lite.engine.trainer import prepare_process

    prepare_process(cfg.seed, cfg.threads)
    plan = build_plan(cfg)
    if plan.force:
        shutil.rmtree(run.path / CHECKPOINTS, ignore_errors=True)
    command = ["anomalib-lite train", *HydraConfig.get().overrides.task]  # runs only this job of a multirun
    run.start(plan.settings, environment(plan.seed, data_hash) | hydra_choices(), command)
    nok = expand(plan.teaching.settings.nok, plan.teaching.root) if plan.teaching else []
    record = describe(splits, [*plan.missed, *nok], plan.mode.with_template)
    if earlier is not None:
        record["learned"] = earlier.data["learned"] | record["learned"]
    write_json(run.path / DATA, record)
    with run.guarded(), tracked(plan.tracking, run, plan.force) as tracker:
        result = fit(plan, run, splits, data_hash, tracker)
    say(in_words(result.metrics))
    say(run.path)


def _with_more_data(cfg: DictConfig, earlier: RunFolder) -> DictConfig:
    """Returns the earlier run's configuration with the data of both.

    Raises UserError if the earlier run's data has changed, and for settings that start_from cannot change.
    """
    overridden = {str(key).partition("=")[0].lstrip("+~").partition(".")[0] for key in HydraConfig.get().overrides.task}
    if fixed := sorted(overridden - set(BESIDE_DATA) - {"data"}):
        raise UserError(
            f"start_from continues a run with its settings, so {', '.join(fixed)} cannot be changed. Remove them, or "
            "train a new run without start_from."
        )
    from anomalib_lite.engine.trust import check_targets

    config = earlier.config
    for key, nothing in {"missed": "null", "contamination": "0"}.items():
        if config.get(key) and key not in overridden:
            raise UserError(
                f"{earlier.path} was trained with {key}={config[key]}, which holds for its images alone: repeat it for "
                f"all images, or drop it with {key}={nothing}."
            )
    check_targets(config, texts(cfg.trust))
    earlier_data: Splits = instantiate(config["data"])
    if fingerprint(earlier_data) != earlier.data["fingerprint"]:
        raise UserError(
            f"The data of {earlier.path} has changed since its training. Restore it: start_from reads the images of "
            "the earlier run again, together with the new ones."
        )
    parts = config["data"].get("parts") or [config["data"]]
    new = OmegaConf.to_container(cfg.data, resolve=True)
    # _convert_=all: otherwise OmegaConf would turn the samples into configurations
    data = {"_target_": "anomalib_lite.data.splits.union", "_convert_": "all", "parts": [*parts, new]}
    kept = {key: cfg[key] for key in BESIDE_DATA}
    return OmegaConf.create({**config, **kept, "start_from": str(earlier.path / MODEL), "data": data})


def _folder(cfg: DictConfig, data_hash: str, earlier: RunFolder | None) -> Path:
    digits = run_hash(OmegaConf.to_container(cfg, resolve=True), data_hash)  # type: ignore[arg-type]  # a dict
    if earlier is not None:
        name = [re.sub(r"(-more)?-[0-9a-f]{10}$", "", earlier.path.resolve().name), "more", digits]
        return Path(cfg.paths.runs, cfg.experiment_name) / folder_name(name)
    choices = HydraConfig.get().runtime.choices
    backbone = cfg.backbone.name if choices["backbone"] == "timm" else choices["backbone"]
    parts = [choices["data"], *categories(cfg), choices["detector"], backbone]
    parts += [f"{group}_{choices[group]}" for group, plain in PLAIN.items() if choices[group] != plain]
    parts += [f"s{cfg.seed}", digits]
    return Path(cfg.paths.runs, cfg.experiment_name) / folder_name(parts)


def categories(cfg: DictConfig) -> Sequence[Any]:
    """Returns the data's categories, for the name of a run's folder."""
    category = cfg.data.get("category")
    return list(category) if OmegaConf.is_list(category) else [] if category is None else [category]
