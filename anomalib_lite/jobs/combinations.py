"""Combinations of choices that make no sense are refused, with the reason."""

from __future__ import annotations

from hydra.utils import get_class
from omegaconf import DictConfig

from anomalib_lite.data.mode import MODES
from anomalib_lite.detectors.model import Model
from anomalib_lite.errors import UserError


def check_combination(cfg: DictConfig, detector: Model) -> None:
    """Errors: UserError that says why the chosen parts do not go together, and what does."""
    method = detector.method
    name = type(method).__name__
    finetuned, generates = bool(cfg.teacher.get("_target_")), bool(cfg.generator.get("_target_"))
    learns_from_generated = finetuned and get_class(cfg.teacher.task["_target_"]).wants_generated
    if cfg.mode.name not in MODES:
        raise UserError(f"mode.name must be one of {', '.join(MODES)}, not '{cfg.mode.name}'.")
    if method.needs_template and cfg.mode.name != "template":
        raise UserError(f"{name} compares each image with a template, which mode=no_template hides. Add mode=template.")
    if finetuned and getattr(method, "backbone", method) is None:
        raise UserError(f"A teacher is a fine-tuned backbone, and {name} as configured has none. Take teacher=frozen.")
    if cfg.augment.restyle:
        _check_restyle(cfg, generates)
    if method.epochs:
        return
    if detector.augment is not None:
        raise UserError(
            f"augment changes the images that a network is trained on, and {name} trains none. Take augment=none; "
            "tta=flips looks at the images mirrored, in learning and in testing."
        )
    if generates and not learns_from_generated:
        raise UserError(
            f"Generated images weigh in a training's loss, and {name} has no training. Take generator=none, another "
            "detector, or teacher=finetuned_classifier, which learns from them."
        )
    if cfg.mode.name == "template" and not method.needs_template and not finetuned:
        raise UserError(
            f"mode=template changes nothing here: {name} neither compares with a template nor trains on it. Take "
            "mode=no_template, detector=template, or teacher=finetuned_classifier."
        )


def _check_restyle(cfg: DictConfig, generates: bool) -> None:
    if not (generates and hasattr(get_class(cfg.generator["_target_"]), "restyle")):
        raise UserError(
            "augment.restyle changes training images by a trained HistAuGAN. Add generator=histaugan; with "
            "mode.generated=0 no other image of it takes part."
        )
    if cfg.generator.size != cfg.image_size:
        raise UserError(
            f"augment.restyle needs a HistAuGAN of the training's own size: set generator.size={cfg.image_size} (and "
            f"generator.crop, a multiple of 4 below it), or image_size={cfg.generator.size}."
        )
