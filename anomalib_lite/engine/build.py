"""Builds the objects of a run from its configuration; `read_teaching` and `read_order` build those of their groups."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.augment.tta import TestTimeAugmentation
from anomalib_lite.backbones.finetuning import Settings as Finetuning
from anomalib_lite.data.files import expand
from anomalib_lite.data.images import ImageSet, inspected
from anomalib_lite.data.sample import Sample, Splits
from anomalib_lite.defects.rules import read_settings
from anomalib_lite.detectors.model import Model
from anomalib_lite.detectors.padim import PaDiM
from anomalib_lite.engine.generate import Order, read_order
from anomalib_lite.engine.review import Reviewer
from anomalib_lite.engine.teacher import Teaching, read_teaching
from anomalib_lite.engine.trainer import Devices, MakeTrainer, devices_of
from anomalib_lite.errors import UserError
from anomalib_lite.scoring import GaussianBlur, MaxScore
from anomalib_lite.settings.training import Mode, WandB

# configuration keys that training and inference both use
SHARED = ("resize", "batch_size", "ram_limit_mb", "seed", "threads")


@dataclass(frozen=True)
class Judge:
    """How a model is applied to images. size: height and width of its input in px. resize: see `ImageSet`."""

    size: tuple[int, int]
    resize: str
    mode: Mode
    batch_size: int
    ram_limit_mb: float
    seed: int
    threads: int | None
    aupro_limit: float

    def images(self, samples: Sequence[Sample], name: str = "all", spool: bool = False, keep: bool = True) -> ImageSet:
        """Returns an ImageSet of the samples; with `keep` it caches decoded pixels up to `ram_limit_mb`."""
        return ImageSet(samples, self.size, self.ram_limit_mb if keep else 0, name, self.resize, spool)


def read_judge(settings: Mapping[str, Any]) -> Judge:
    """Builds a Judge from a resolved configuration; raises KeyError or TypeError for one of an older version."""
    return Judge(
        size=image_size(settings["image_size"]),
        mode=Mode(**settings["mode"]),
        aupro_limit=settings["scoring"]["aupro_limit"],
        **{key: settings[key] for key in SHARED},
    )


def threshold_rule(settings: Mapping[str, Any]) -> tuple[float, float | None, float]:
    """Returns (false-alarm rate, percentile, factor), see `find_threshold`."""
    scoring = settings["scoring"]
    return scoring["false_alarm_rate"], scoring["pixel_percentile"], scoring["pixel_factor"]


@dataclass(frozen=True)
class Plan(Judge):
    """A training as objects and plain values, built from its configuration."""

    settings: Mapping[str, Any]  # the resolved configuration; artifacts are named by a hash of it
    model: Callable[..., Model]  # `build_model` of the configuration
    trainer: MakeTrainer
    devices: Devices
    order: Order
    generates: bool  # whether the detector trains on generated images
    restyles: bool  # whether the generator changes the style of training images
    teaching: Teaching | None  # None: the backbone keeps its pretrained weights
    tracking: WandB
    artifacts: Path
    rule: tuple[float, float | None, float]  # see `threshold_rule`
    keep: str  # epoch that is kept: last or best
    validate: bool  # whether half of the held-out images validate the run with synthetic defects
    force: bool  # whether existing results are computed again
    start_from: Path | None  # model file of a finished run, loaded instead of training
    missed: tuple[Path, ...]  # NOK photographs that the threshold must flag
    reviewer: Reviewer | None  # leaves out OK images that look NOK


def build_plan(cfg: DictConfig) -> Plan:
    """Builds the Plan; raises UserError for invalid values and for choices that contradict each other."""
    settings = plain(cfg)
    judge = read_judge(settings)
    order, teaching = read_order(settings["generator"], cfg.seed), read_teaching(settings, judge.size)
    model, restyles = build_model(cfg, "none"), bool(cfg.augment.restyle)
    finetuning = teaching.settings if teaching else None
    _check_choices(model, judge.mode, finetuning, order.generator, restyles, judge.size, judge.resize)
    model.check(judge.size)
    if settings["defects"] and settings["defects"]["types"]:
        read_settings(settings["defects"])  # reports mistakes before anything is trained
    trainer = instantiate(cfg.trainer, _convert_="all")
    devices = devices_of(trainer)
    trains = not cfg.start_from  # a run that starts from another one already has trained weights
    return Plan(
        **vars(judge),
        settings=settings,
        model=partial(build_model, cfg),
        trainer=trainer,
        devices=devices,
        order=order,
        generates=trains and order.generator is not None and judge.mode.generated != 0,
        restyles=trains and restyles,
        teaching=teaching if trains else None,
        tracking=WandB(**settings["tracking"]),
        artifacts=Path(str(cfg.paths.artifacts)),
        rule=threshold_rule(settings),
        start_from=Path(str(cfg.start_from)) if cfg.start_from else None,
        missed=tuple(expand(cfg.missed, Path())),
        reviewer=_reviewer(cfg, devices) if cfg.contamination else None,
        **{key: cfg[key] for key in ("keep", "validate", "force")},
    )


def build_data(cfg: DictConfig | Mapping[str, Any]) -> Splits:
    """Reads the data set that the configuration group `data` describes."""
    return instantiate(cfg)


def build_model(
    cfg: DictConfig, weights: str | Path | None = None, restyler: Callable[..., Any] | None = None
) -> Model:
    """Builds the untrained model of a configuration.

    weights: source of the backbone's weights; None: the configured one. restyler: changes the style of training images.
    """
    overrides = {} if weights is None else {"weights": str(weights)}
    method = instantiate(cfg.detector, backbone=instantiate(cfg.backbone, _partial_=True, **overrides))
    augment = instantiate(cfg.augment, restyler=restyler)
    views, blur, score = (instantiate(part) for part in (cfg.tta, cfg.scoring.blur, cfg.scoring.score))
    size, roi, ignore = image_size(cfg.image_size), cfg.get("roi"), cfg.get("ignore")
    tiling = instantiate(cfg.tiling, image_size=size)
    region = inspected(roi, ignore, size, cfg.resize) if weights != "none" else None
    if weights == "none" and (roi or ignore):  # the checkpoint holds the region
        region = torch.ones(1, 1, *size, dtype=torch.bool)
    return Model(method, views, blur, score, augment if augment.active else None, tiling, region)


def _reviewer(cfg: DictConfig, devices: Devices) -> Reviewer:
    """Builds a Reviewer with PaDiM, whatever the detector: it fits each fold within seconds, without training."""

    def make() -> Model:
        method = PaDiM(instantiate(cfg.backbone, _partial_=True))
        return Model(method, TestTimeAugmentation(), GaussianBlur(), MaxScore())

    return Reviewer(make, devices.first, cfg.batch_size, cfg.seed, share=cfg.contamination)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Returns the resolved configuration as dictionaries and lists."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]  # a dict


def nothing(**_: Any) -> None:
    """Returns None: the target of the option `none` of a configuration group."""


def image_size(value: Any) -> tuple[int, int]:
    """Returns (height, width) for one number or a pair."""
    height, width = [value, value] if isinstance(value, int) else value
    return height, width


def _check_choices(
    model: Model,
    mode: Mode,
    finetuning: Finetuning | None,
    generator: Any,
    restyles: bool,
    size: tuple[int, int],
    resize: str = "stretch",
) -> None:
    """Raises UserError where choices contradict each other; the message names a combination that works."""
    method, name = model.method, type(model.method).__name__
    if method.needs_template and not mode.with_template:
        raise UserError(f"{name} compares each image with a template, but mode=no_template is set. Add mode=template.")
    if finetuning is not None and getattr(method, "backbone", method) is None:
        raise UserError(f"teacher=... fine-tunes a backbone, but {name} as configured has none. Use teacher=frozen.")
    if restyles and not hasattr(generator, "restyle"):
        raise UserError(
            "augment.restyle changes training images with a trained HistAuGAN. Add generator=histaugan; to restyle "
            "without training on generated images, also set mode.generated=0."
        )
    if restyles and image_size(generator.size) != size:
        needed = size[0] if size[0] == size[1] else list(size)
        raise UserError(
            f"augment.restyle needs a HistAuGAN of the training's image size: set generator.size={needed} (and "
            f"generator.crop to a smaller multiple of 4), or image_size={generator.size}."
        )
    stretches = mode.generated != 0 and hasattr(generator, "size")  # SinGAN keeps the shape of photographs
    if stretches and resize != "stretch" and not (resize == "none" and image_size(generator.size) == size):
        raise UserError(
            f"{type(generator).__name__} stretches its images to generator.size={generator.size}, while "
            f"resize={resize} keeps the photographs' shape: products would be trained on in two shapes. Set "
            "resize=stretch, generator=singan or mode.generated=0."
        )
    if method.trains:
        return
    if model.augment is not None:
        raise UserError(
            f"augment changes the images that a network is trained on, but {name} trains no network. Use augment=none; "
            "tta=flips adds mirrored views when the detector is fitted and when it is tested."
        )
    if generator is not None and not (finetuning is not None and finetuning.task.wants_generated):
        raise UserError(
            f"Generated images only enter the loss of a training, but {name} trains no network. Use generator=none, "
            "another detector, or teacher=finetuned_classifier, which trains on them."
        )
    if mode.with_template and not method.needs_template and finetuning is None:
        raise UserError(
            f"mode=template has no effect: {name} neither compares images with a template nor trains on it. Use "
            "mode=no_template, detector=fusion_template or template, or teacher=finetuned_classifier."
        )
