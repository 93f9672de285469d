"""A configuration becomes objects: the only code below the verbs that sees one."""

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

# of a configuration, used by a training and by whoever judges with its result
SHARED = ("resize", "batch_size", "ram_limit_mb", "seed", "threads")


@dataclass(frozen=True)
class Judge:
    """How a model sees images. size: height and width in px. resize: how images come to it, see `ImageSet`."""

    size: tuple[int, int]
    resize: str
    mode: Mode
    batch_size: int
    ram_limit_mb: float
    seed: int
    threads: int | None
    aupro_limit: float

    def images(self, samples: Sequence[Sample], name: str = "all", spool: bool = False, keep: bool = True) -> ImageSet:
        """keep: whether the pixels stay in memory where they fit. name, spool: see `ImageSet`."""
        return ImageSet(samples, self.size, self.ram_limit_mb if keep else 0, name, self.resize, spool)


def read_judge(settings: Mapping[str, Any]) -> Judge:
    """From a configuration, plain and resolved. Errors: KeyError and the like for one of an older version."""
    return Judge(
        size=image_size(settings["image_size"]),
        mode=Mode(**settings["mode"]),
        aupro_limit=settings["scoring"]["aupro_limit"],
        **{key: settings[key] for key in SHARED},
    )


def threshold_rule(settings: Mapping[str, Any]) -> tuple[float, float | None, float]:
    """False-alarm rate, and percentile and factor of the pixel threshold (None and any: it keeps the rate, too)."""
    scoring = settings["scoring"]
    return scoring["false_alarm_rate"], scoring["pixel_percentile"], scoring["pixel_factor"]


@dataclass(frozen=True)
class Plan(Judge):
    """A training as objects and plain values.

    Attributes:
        settings: The resolved configuration, plain; results are named by it.
        model: Makes the untrained model, given the source of its backbone's weights (None: the configured one) and
            what restyles training images (None: nothing).
        trainer: Makes Lightning's Trainer with the configured arguments.
        order: Of the generator, if there is one.
        generates: Whether images of the generator take part.
        restyles: Whether the generator changes training images.
        teaching: How the backbone is fine-tuned; None where it stays as it is.
        rule: See `threshold_rule`.
        keep: Which epoch is kept, `last` or `best`.
        validate: Whether half of the held-out images judge the run by drawn defects.
        force: Whether what is there already is made anew.
        start_from: The model of a finished run, which is loaded instead of training one.
        missed: NOK photographs that the threshold must find.
        reviewer: Leaves out OK images that look NOK; None: all are taken.
    """

    settings: Mapping[str, Any]
    model: Callable[..., Model]
    trainer: MakeTrainer
    devices: Devices
    order: Order
    generates: bool
    restyles: bool
    teaching: Teaching | None
    tracking: WandB
    artifacts: Path
    rule: tuple[float, float | None, float]
    keep: str
    validate: bool
    force: bool
    start_from: Path | None
    missed: tuple[Path, ...]
    reviewer: Reviewer | None


def build_plan(cfg: DictConfig) -> Plan:
    """Errors: UserError for values that make no sense, and for choices that do not go together."""
    settings = plain(cfg)
    judge = read_judge(settings)
    order, teaching = read_order(settings["generator"], cfg.seed), read_teaching(settings, judge.size)
    model, restyles = build_model(cfg, "none"), bool(cfg.augment.restyle)
    _check_choices(model, judge.mode, teaching.settings if teaching else None, order.generator, restyles, judge.size)
    model.check(judge.size)
    if settings["defects"] and settings["defects"]["types"]:
        read_settings(settings["defects"])  # what is wrong with them is said before anything is trained
    trainer = instantiate(cfg.trainer, _convert_="all")
    devices = devices_of(trainer)
    learns = not cfg.start_from  # a run that starts from another one has its weights already
    return Plan(
        **vars(judge),
        settings=settings,
        model=partial(build_model, cfg),
        trainer=trainer,
        devices=devices,
        order=order,
        generates=learns and order.generator is not None and judge.mode.generated != 0,
        restyles=learns and restyles,
        teaching=teaching if learns else None,
        tracking=WandB(**settings["tracking"]),
        artifacts=Path(str(cfg.paths.artifacts)),
        rule=threshold_rule(settings),
        start_from=Path(str(cfg.start_from)) if cfg.start_from else None,
        missed=tuple(expand(cfg.missed, Path())),
        reviewer=_reviewer(cfg, devices) if cfg.contamination else None,
        **{key: cfg[key] for key in ("keep", "validate", "force")},
    )


def build_data(cfg: DictConfig | Mapping[str, Any]) -> Splits:
    """The splits of the group `data`."""
    return instantiate(cfg)


def build_model(
    cfg: DictConfig, weights: str | Path | None = None, restyler: Callable[..., Any] | None = None
) -> Model:
    """The untrained model of a configuration; see `Plan.model`."""
    overrides = {} if weights is None else {"weights": str(weights)}
    method = instantiate(cfg.detector, backbone=instantiate(cfg.backbone, _partial_=True, **overrides))
    augment = instantiate(cfg.augment, restyler=restyler)
    views, blur, score = (instantiate(part) for part in (cfg.tta, cfg.scoring.blur, cfg.scoring.score))
    size, roi, ignore = image_size(cfg.image_size), cfg.get("roi"), cfg.get("ignore")
    tiling = instantiate(cfg.tiling, image_size=size)
    region = inspected(roi, ignore, size, cfg.resize) if weights != "none" else None
    if weights == "none" and (roi or ignore):  # a finished run keeps its region beside its weights
        region = torch.ones(1, 1, *size, dtype=torch.bool)
    return Model(method, views, blur, score, augment if augment.active else None, tiling, region)


def _reviewer(cfg: DictConfig, devices: Devices) -> Reviewer:
    """By PaDiM, whatever the detector: it is fitted to each fold within seconds, and trains nothing."""

    def make() -> Model:
        return Model(
            PaDiM(instantiate(cfg.backbone, _partial_=True)), TestTimeAugmentation(), GaussianBlur(), MaxScore()
        )

    return Reviewer(make, devices.first, cfg.batch_size, cfg.seed, share=cfg.contamination)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A resolved configuration as dictionaries and lists."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def nothing(**_: Any) -> None:
    """What the choice `none` of a group makes."""


def image_size(value: Any) -> tuple[int, int]:
    """(height, width) from one number or from a pair."""
    height, width = [value, value] if isinstance(value, int) else value
    return height, width


def _check_choices(
    model: Model, mode: Mode, finetuning: Finetuning | None, generator: Any, restyles: bool, size: tuple[int, int]
) -> None:
    """Errors: UserError that says why the chosen parts do not go together, and what does."""
    method, name = model.method, type(model.method).__name__
    if method.needs_template and not mode.with_template:
        raise UserError(f"{name} compares each image with a template, which mode=no_template hides. Add mode=template.")
    if finetuning is not None and getattr(method, "backbone", method) is None:
        raise UserError(f"A teacher is a fine-tuned backbone, and {name} as configured has none. Take teacher=frozen.")
    if restyles:
        _check_restyle(generator, size)
    if method.epochs:
        return
    if model.augment is not None:
        raise UserError(
            f"augment changes the images that a network is trained on, and {name} trains none. Take augment=none; "
            "tta=flips looks at the images mirrored, in learning and in testing."
        )
    if generator is not None and not (finetuning is not None and finetuning.task.wants_generated):
        raise UserError(
            f"Generated images weigh in a training's loss, and {name} has no training. Take generator=none, another "
            "detector, or teacher=finetuned_classifier, which learns from them."
        )
    if mode.with_template and not method.needs_template and finetuning is None:
        raise UserError(
            f"mode=template changes nothing here: {name} neither compares with a template nor trains on it. Take "
            "mode=no_template, detector=fusion_template or template, or teacher=finetuned_classifier."
        )


def _check_restyle(generator: Any, size: tuple[int, int]) -> None:
    if not hasattr(generator, "restyle"):
        raise UserError(
            "augment.restyle changes training images by a trained HistAuGAN. Add generator=histaugan; with "
            "mode.generated=0 no other image of it takes part."
        )
    if image_size(generator.size) != size:
        asked = size[0] if size[0] == size[1] else list(size)
        raise UserError(
            f"augment.restyle needs a HistAuGAN of the training's own size: set generator.size={asked} (and "
            f"generator.crop, a multiple of 4 below it), or image_size={generator.size}."
        )
