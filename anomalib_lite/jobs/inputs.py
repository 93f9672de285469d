"""What a training starts from: the data as its mode shows it, generated images, and the teacher's weights."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from anomalib_lite.augment.colour_match import matched_template
from anomalib_lite.data.mode import refuse_held_back, templates_of, weighted, with_template, without_template
from anomalib_lite.data.sample import OK, Sample, Splits


@dataclass(frozen=True)
class Inputs:
    """splits: training images in the order real, generated, template, weighted by origin. real: how many are real.
    teacher: file of the backbone's weights, None for its own source. template: the golden image, None without one or
    where each image has its own. generated: report folder of the generated images. data: the data's fingerprint.
    restyler: see Augment. key: JSON-ready; with the data and the configuration it defines the training.
    """

    splits: Splits
    real: int
    teacher: str | None
    template: Path | None
    generated: Path | None
    restyler: Callable[..., Any] | None
    data: str
    key: list[Any]


def make_inputs(cfg: DictConfig, splits: Splits, data_hash: str, tracker: Any = None) -> Inputs:
    """Generators and teachers are trained where no artifact of theirs exists. data_hash: the splits' fingerprint."""
    artifacts = Path(cfg.paths.artifacts)
    golden: list[Sample] = []
    template = None
    if cfg.mode.name == "template":
        templates = templates_of(splits)
        refuse_held_back(templates, splits)
        if len(templates) == 1:
            template = matched_template(templates[0], [s.image for s in splits.train], artifacts, cfg.mode.colours)
            splits, templates = with_template(splits, template), [template]
        # of pairs, the training images' own alone
        learned = {s.template for s in splits.train} - {s.image for s in splits.train}
        golden = [Sample(t, OK, template=t, origin="template") for t in templates if t in learned]
    else:
        splits = without_template(splits)
    made, of_generated = _generated(cfg, splits, template, data_hash, tracker)
    train = weighted([*splits.train, *made, *golden], cfg.mode.weights, cfg.mode.generated)
    counts = Counter(s.origin for s in train)
    real_or_template = [s for s in train if not s.origin.endswith("generated")]
    of_generator = [s for s in train if s.origin.endswith("generated")]
    teacher = _teacher(cfg, real_or_template, data_hash, splits, of_generator)
    key = [
        sorted((s.origin, s.weight, s.image.parent.name, s.image.name) for s in train[counts["real"] :]),
        Path(teacher).parent.name if teacher else None,
    ]
    restyler, name = _restyler(cfg, splits, template, data_hash, tracker)
    if name:
        key.append(name)
    splits = dataclasses.replace(splits, train=train)
    return Inputs(splits, counts["real"], teacher, template, of_generated, restyler, data_hash, key)


def _generated(
    cfg: DictConfig, splits: Splits, template: Path | None, data_hash: str, tracker: Any
) -> tuple[list[Sample], Path | None]:
    """The samples, and the folder of their report."""
    if not cfg.generator.get("_target_") or cfg.mode.generated == 0:
        return [], None
    from lightning.pytorch.utilities.seed import isolate_rng

    from anomalib_lite.engine.generate import generated_set

    with isolate_rng():  # the run goes on as if the images had been there
        made = generated_set(_order(cfg), splits.train, template, data_hash, Path(cfg.paths.artifacts), tracker)
    return made.samples, made.report


def _restyler(
    cfg: DictConfig, splits: Splits, template: Path | None, data_hash: str, tracker: Any
) -> tuple[Callable[..., Any] | None, str | None]:
    """What changes colour and light of training images, and the name of its artifact."""
    if not cfg.augment.restyle:
        return None, None
    from lightning.pytorch.utilities.seed import isolate_rng

    from anomalib_lite.engine.generate import trained_generator

    with isolate_rng():
        artifacts = Path(cfg.paths.artifacts)
        generator, name = trained_generator(_order(cfg), splits.train, template, data_hash, artifacts, tracker)
    return generator.restyle, name  # type: ignore[attr-defined] - check_combination has looked


def _order(cfg: DictConfig) -> Any:
    from anomalib_lite.engine.generate import read_order

    return read_order(OmegaConf.to_container(cfg.generator, resolve=True), cfg.seed)


def _teacher(cfg: DictConfig, ok: list[Sample], data_hash: str, splits: Splits, generated: list[Sample]) -> str | None:
    if not cfg.teacher.get("_target_"):
        return None
    from anomalib_lite.engine.teacher import finetuned_weights, read_teaching
    from anomalib_lite.jobs.inference import image_size

    teaching = read_teaching(
        *(OmegaConf.to_container(cfg[group], resolve=True) for group in ("teacher", "backbone")),
        image_size(cfg),
        root=Path(cfg.data.get("root") or "."),
        ram_limit_mb=cfg.ram_limit_mb,
        accelerator=cfg.trainer.accelerator,
        precision=cfg.trainer.precision,
    )
    artifacts = Path(cfg.paths.artifacts)
    return str(finetuned_weights(teaching, ok, data_hash, artifacts, splits.test, splits.val, generated))
