"""The verb train."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.data.fingerprint import DATA, describe, fingerprint
from anomalib_lite.data.sample import Splits
from anomalib_lite.data.splits import need_training_images
from anomalib_lite.jobs.app import app, say
from anomalib_lite.jobs.multirun import command
from anomalib_lite.runs.artifacts import alone
from anomalib_lite.runs.atomic import write_json
from anomalib_lite.runs.environment import chosen, environment
from anomalib_lite.runs.folder import CHECKPOINTS, RunFolder, announce, folder_name, run_hash
from anomalib_lite.runs.tracking import Tracking, track_again, tracked

log = logging.getLogger(__name__)

HELP = """Learns from OK images, sets the threshold on held-out OK images, measures on the test images.

Writes runs/<experiment_name>/<data>-<detector>-<backbone>-s<seed>-<hash>/ with report.html, metrics.json,
predictions.csv, defects.csv, figures/ and the model. A run that is done is not run again (force=true does); one that
was interrupted goes on from its last epoch.

  anomalib-lite train                                                    built-in product photographs
  anomalib-lite train data=mvtec_ad data.root=DIR data.category=bottle
  anomalib-lite train data=folder data.ok=ok data.nok='nok/*'
  anomalib-lite train detector=stfpm mode=template teacher=finetuned tta=flips
  anomalib-lite train -m detector=stfpm augment=none,flips tta=none,flips     TTA does not train again"""

# groups that a run's folder names where they are not left at their plain choice
PLAIN = {"mode": "no_template", "augment": "none", "generator": "none", "teacher": "frozen", "tta": "none"}


@app("train", HELP)
def main(cfg: DictConfig) -> float | None:
    """Returns the image AUROC, which sweepers maximise."""
    splits: Splits = instantiate(cfg.data)
    need_training_images(splits)
    data_hash = fingerprint(splits)
    folder = _folder(cfg, data_hash)
    announce(folder)
    with alone(folder, inside=True):  # who is asked for the same run at the same time waits, and finds it done
        run = RunFolder(folder)
        if run.done and not cfg.force:
            log.info("already done: %s (force=true runs it again)", run.path)
            track_again(Tracking(**cfg.tracking), run)
            return run.metrics["image_auroc"]
        return _train(cfg, run, splits, data_hash)


def _train(cfg: DictConfig, run: RunFolder, splits: Splits, data_hash: str) -> float | None:
    log.info("%s", run.path)
    # the networks' libraries take seconds: they come when there is something to train
    from anomalib_lite.engine.build import build_plan
    from anomalib_lite.engine.fit import fit
    from anomalib_lite.engine.results import in_words
    from anomalib_lite.engine.trainer import prepare_process

    prepare_process(cfg.seed, cfg.threads)
    plan = build_plan(cfg)
    if plan.force:
        shutil.rmtree(run.path / CHECKPOINTS, ignore_errors=True)
    run.start(plan.settings, environment(plan.seed, data_hash) | chosen(), command("train"))
    write_json(run.path / DATA, describe(splits))
    with run.guarded(), tracked(plan.tracking, run, plan.force) as tracker:
        result = fit(plan, run, splits, data_hash, tracker)
    say(in_words(result.metrics))
    say(run.path)
    return result.metrics["image_auroc"]


def _folder(cfg: DictConfig, data_hash: str) -> Path:
    choices = HydraConfig.get().runtime.choices
    backbone = cfg.backbone.name if choices["backbone"] == "timm" else choices["backbone"]
    parts = [choices["data"], *categories(cfg), choices["detector"], backbone]
    parts += [f"{group}_{choices[group]}" for group, plain in PLAIN.items() if choices[group] != plain]
    parts += [f"s{cfg.seed}", run_hash(OmegaConf.to_container(cfg, resolve=True), data_hash)]  # type: ignore[arg-type]
    return Path(str(cfg.paths.runs)) / str(cfg.experiment_name) / folder_name(parts)


def categories(cfg: DictConfig) -> Sequence[Any]:
    """Those of the data, for a folder's name."""
    category = cfg.data.get("category")
    return list(category) if OmegaConf.is_list(category) else [] if category is None else [category]


if __name__ == "__main__":
    main()
