"""A configuration becomes objects: the only code below the verbs that sees one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.augment.tta import TestTimeAugmentation
from anomalib_lite.backbones.finetuning import Settings as Finetuning
from anomalib_lite.data.files import expand
from anomalib_lite.data.images import inspected
from anomalib_lite.data.sample import Splits
from anomalib_lite.data.splits import Mode
from anomalib_lite.defects.rules import read_settings
from anomalib_lite.detectors.model import Model
from anomalib_lite.detectors.padim import PaDiM
from anomalib_lite.engine.generate import generated_set, read_order, trained_generator
from anomalib_lite.engine.review import Reviewer
from anomalib_lite.engine.teacher import Teaching, finetuned_weights, read_teaching
from anomalib_lite.engine.trainer import Devices, MakeTrainer, devices_of
from anomalib_lite.errors import UserError
from anomalib_lite.export.session import Exported
from anomalib_lite.runs.tracking import Tracking
from anomalib_lite.scoring import GaussianBlur, MaxScore

SHARED = ("resize", "batch_size", "ram_limit_mb", "seed", "threads")  # by a training and by what it is used with


@dataclass(frozen=True)
class Plan:
    """A training as objects and plain values.

    Attributes:
        settings: The resolved configuration, plain; results are named by it.
        model: Makes the untrained model, given the source of its backbone's weights (None: the configured one) and
            what restyles training images (None: nothing).
        size: Height and width of the images, in px.
        resize: How images come to that size, see `ImageSet`.
        trainer: Makes Lightning's Trainer with the configured arguments.
        generated: Makes the generator's images; None where none take part.
        restyler: Trains what restyles training images; None where nothing does.
        teacher: Fine-tunes the backbone and returns the file of its weights; None where it stays frozen.
        inspector: Settings of the inspector; None or without types: there is none.
        pixel_rule: Percentile and factor of the pixel threshold; None and any: it keeps the false-alarm rate.
        keep: Which epoch is kept, `last` or `best`.
        validate: Whether half of the held-out images judge the run by drawn defects.
        force: Whether what is there already is made anew.
        start_from: The model of a finished run, which is loaded instead of training one.
        missed: NOK photographs that the threshold must find.
        reviewer: Leaves out OK images that look NOK; None: all are taken.
    """

    settings: Mapping[str, Any]
    model: Callable[..., Model]
    size: tuple[int, int]
    resize: str
    mode: Mode
    trainer: MakeTrainer
    devices: Devices
    generated: Callable[..., Any] | None
    restyler: Callable[..., Any] | None
    teacher: Callable[..., Any] | None
    inspector: Mapping[str, Any] | None
    tracking: Tracking
    artifacts: Path
    batch_size: int
    ram_limit_mb: float
    seed: int
    threads: int | None
    false_alarm_rate: float
    pixel_rule: tuple[float | None, float]
    aupro_limit: float
    keep: str
    validate: bool
    force: bool
    start_from: Path | None
    missed: tuple[Path, ...]
    reviewer: Reviewer | None


def build_plan(cfg: DictConfig) -> Plan:
    """Errors: UserError for values that make no sense, and for choices that do not go together."""
    settings = plain(cfg)
    mode, artifacts = Mode(**settings["mode"]), Path(str(cfg.paths.artifacts))
    finetuning, order = instantiate(cfg.teacher), read_order(settings["generator"], cfg.seed)
    size, restyles = image_size(cfg.image_size), bool(cfg.augment.restyle)
    model = build_model(cfg, "none")
    _check_choices(model, mode, finetuning, order.generator, restyles, size)
    model.check(size)
    if settings["defects"] and settings["defects"]["types"]:
        read_settings(settings["defects"])  # what is wrong with them is said before anything is trained
    trainer = instantiate(cfg.trainer, _convert_="all")
    return Plan(
        settings=settings,
        model=partial(build_model, cfg),
        size=size,
        mode=mode,
        trainer=trainer,
        devices=devices_of(trainer),
        # a run that starts from another one has its weights already
        generated=None
        if cfg.start_from or order.generator is None or mode.generated == 0
        else partial(generated_set, order),
        restyler=partial(trained_generator, order) if restyles and not cfg.start_from else None,
        teacher=None if cfg.start_from or finetuning is None else partial(finetuned_weights, _teaching(settings, size)),
        inspector=settings["defects"],
        tracking=Tracking(**settings["tracking"]),
        artifacts=artifacts,
        false_alarm_rate=cfg.scoring.false_alarm_rate,
        pixel_rule=(cfg.scoring.pixel_percentile, cfg.scoring.pixel_factor),
        aupro_limit=cfg.scoring.aupro_limit,
        start_from=Path(str(cfg.start_from)) if cfg.start_from else None,
        missed=tuple(expand(cfg.missed, Path())),
        reviewer=_reviewer(cfg, devices_of(trainer)) if cfg.contamination else None,
        **{key: cfg[key] for key in (*SHARED, "keep", "validate", "force")},
    )


@dataclass(frozen=True)
class Judge:
    """What a finished training is used with: its model, without the learned weights, and how it sees images."""

    model: Model
    size: tuple[int, int]
    resize: str
    mode: Mode
    trainer: MakeTrainer
    batch_size: int
    ram_limit_mb: float
    seed: int
    threads: int | None
    aupro_limit: float


def build_judge(settings: Mapping[str, Any]) -> Judge:
    """From the configuration that a run keeps. Errors: KeyError and the like for one of an older version."""
    cfg = OmegaConf.create(dict(settings))
    return Judge(
        model=build_model(cfg, weights="none"),
        size=image_size(settings["image_size"]),
        mode=Mode(**settings["mode"]),
        trainer=instantiate(cfg.trainer, _convert_="all"),
        aupro_limit=settings["scoring"]["aupro_limit"],
        **{key: settings[key] for key in SHARED},
    )


def judge_of(exported: Exported) -> Judge:
    """Of an exported file, which is used as a model is."""
    settings = exported.about["settings"]
    return Judge(
        model=cast(Model, exported),
        size=exported.size,
        mode=Mode(**settings["mode"]),
        trainer=Trainer,
        aupro_limit=settings["aupro_limit"],
        **{key: settings[key] for key in SHARED},
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
    tiling = instantiate(cfg.tiling, image_size=image_size(cfg.image_size))
    size = image_size(cfg.image_size)
    roi, ignore = cfg.get("roi"), cfg.get("ignore")
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
    pair = [value, value] if isinstance(value, int) else list(value) if hasattr(value, "__iter__") else []
    if len(pair) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in pair):
        raise UserError(f"image_size is a whole number of px, or [height, width], not {value!r}.")
    return (pair[0], pair[1])


def _teaching(settings: Mapping[str, Any], size: tuple[int, int]) -> Teaching:
    return read_teaching(
        settings["teacher"],
        settings["backbone"],
        size,
        root=Path(str(settings["data"].get("root") or ".")),
        ram_limit_mb=settings["ram_limit_mb"],
        accelerator=settings["trainer"]["accelerator"],
        precision=settings["trainer"]["precision"],
    )


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
            "mode=no_template, detector=template, or teacher=finetuned_classifier."
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
