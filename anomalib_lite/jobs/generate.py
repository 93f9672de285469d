"""anomalib-lite generate: train a generator and draw new OK images."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.data.sample import Splits
from anomalib_lite.data.splits import fingerprint, need_training_images, templates_of
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app, say
from anomalib_lite.jobs.train import categories
from anomalib_lite.runs.atomic import atomic_path
from anomalib_lite.runs.folder import RunFolder, environment, folder_name, hydra_choices, run_hash
from anomalib_lite.runs.tracking import tracked
from anomalib_lite.settings.training import WandB

log = logging.getLogger(__name__)

HELP = """Generates new OK images from OK images, and measures their quality.

Trains the generator on the OK training images, unless that was done before with this data, template, configuration and
seed; `train generator=...` then uses the same images. Writes <output>/<data>-<generator>-<mode>-s<seed>-<hash>/ with
images/, contact_sheet.png (real beside generated), generated.html and quality.json. Images with a damaged structure
are dropped; generator.structure_guard sets how strictly.

  anomalib-lite generate                                                 built-in product photographs
  anomalib-lite generate generator=singan generator.count=100
  anomalib-lite generate mode=template data=folder data.ok=ok data.template=golden.png
  anomalib-lite generate -m generator=histaugan,singan generator.structure_guard.enabled=true,false"""

FILES = ("contact_sheet.png", "generated.html", "quality.json", "images.csv")


@app("generate", HELP)
def main(cfg: DictConfig) -> float | None:
    """Returns the kernel distance to the real images, which sweepers minimise."""
    splits = instantiate(cfg.data)
    need_training_images(splits)
    data_hash = fingerprint(splits)
    run = RunFolder(_folder(cfg, data_hash))
    if run.done and not cfg.force:
        log.info("already done: %s (force=true trains and generates again)", run.path)
        return _conclude(run.path)
    from anomalib_lite.engine.generate import generated_set, read_order
    from anomalib_lite.engine.trainer import prepare_process

    prepare_process(cfg.seed, cfg.threads)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a dict
    order = read_order(config["generator"], cfg.seed)
    if order.generator is None:
        raise UserError("generator=none makes no images: choose one, e.g. generator=histaugan.")
    run.start(config, environment(cfg.seed, data_hash) | hydra_choices())
    with run.guarded(), tracked(WandB(**cfg.tracking), run, cfg.force) as tracker:
        with run.stage("generate"):
            artifacts, template = Path(cfg.paths.artifacts), _template(cfg, splits)
            images = generated_set(order, splits.train, template, data_hash, artifacts, tracker, retrain=cfg.force)
        shutil.rmtree(run.path / "images", ignore_errors=True)
        copies = [(sample.image, run.path / "images" / sample.image.name) for sample in images.samples]
        for source, target in [*copies, *((images.report / name, run.path / name) for name in FILES)]:
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
    return _conclude(run.path)


def _template(cfg: DictConfig, splits: Splits) -> Path | None:
    """Returns the golden image matched to the colours of the OK training images; None unless mode=template."""
    if cfg.mode.name != "template":
        return None
    templates = templates_of(splits)
    if len(templates) != 1:
        raise UserError(
            f"mode=template needs exactly one golden image, but the data has {len(templates)}. Set data.template=..., "
            "or use mode=no_template."
        )
    from anomalib_lite.augment.colour_match import matched_template

    return matched_template(templates[0], splits.train, Path(cfg.paths.artifacts), cfg.mode.colours)


def _conclude(folder: Path) -> float | None:
    from anomalib_lite.report.generated import guard_words, quality_table  # imports matplotlib, which takes a second

    quality: dict[str, Any] = json.loads((folder / "quality.json").read_text(encoding="utf-8"))
    say(quality_table(quality))
    for name, reason in quality["missing"].items():
        log.info("%s not available: %s", name, reason)
    say(guard_words(quality))
    say(f"{quality['drawn']['kept']} images: {folder / 'images'}")
    say(f"contact sheet: {folder / 'contact_sheet.png'}")
    say(f"report: {folder / 'generated.html'}")
    return quality["kernel"]["generated"] if quality["kernel"] else None


def _folder(cfg: DictConfig, data_hash: str) -> Path:
    choices = HydraConfig.get().runtime.choices
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a dict
    del config["output"]
    parts = [choices["data"], *categories(cfg), choices["generator"], choices["mode"], f"s{cfg.seed}"]
    return Path(cfg.output) / folder_name([*parts, run_hash(config, data_hash)])
