"""What a training starts from: the data as its mode shows it, generated images, and the teacher's weights."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng

from anomalib_lite.augment.colour_match import matched_template
from anomalib_lite.data.mode import refuse_held_back, templates_of, weighted, with_template, without_template
from anomalib_lite.data.sample import OK, Sample, Splits
from anomalib_lite.engine.build import Plan
from anomalib_lite.runs.tracking import Tracker


@dataclass(frozen=True)
class Inputs:
    """What is learned from.

    Attributes:
        splits: Training images in the order real, generated, template, weighted by origin.
        real: How many of the training images are real.
        teacher: File of the backbone's weights, None for its own source.
        template: The golden image, None without one or where each image has its own.
        generated: Report folder of the generated images, or None.
        restyler: See `Augment`.
        data: The data's fingerprint.
        key: JSON-ready; with the data and the configuration it defines the training.
    """

    splits: Splits
    real: int
    teacher: Path | None
    template: Path | None
    generated: Path | None
    restyler: Callable[..., Any] | None
    data: str
    key: list[Any]


def make_inputs(plan: Plan, splits: Splits, data_hash: str, tracker: Tracker | None = None) -> Inputs:
    """Generators and teachers are trained where no artifact of theirs exists. data_hash: the splits' fingerprint."""
    splits, template, golden = _shown(plan, splits)
    made, report, restyler, name = [], None, None, None
    with isolate_rng():  # the run goes on as if neither had been trained
        if plan.generated:
            images = plan.generated(splits.train, template, data_hash, plan.artifacts, tracker)
            made, report = images.samples, images.report
        if plan.restyler:
            generator, name = plan.restyler(splits.train, template, data_hash, plan.artifacts, tracker)
            restyler = generator.restyle
    train = weighted([*splits.train, *made, *golden], plan.mode.weights, plan.mode.generated)
    real = Counter(s.origin for s in train)["real"]
    teacher = None
    if plan.teacher:
        shown = [s for s in train if not s.origin.endswith("generated")]
        generated = [s for s in train if s.origin.endswith("generated")]
        teacher = plan.teacher(shown, data_hash, plan.artifacts, splits.test, splits.val, generated)
    key = [
        sorted((s.origin, s.weight, s.image.parent.name, s.image.name) for s in train[real:]),
        teacher.parent.name if teacher else None,
        *([name] if name else []),
    ]
    splits = dataclasses.replace(splits, train=train)
    return Inputs(splits, real, teacher, template, report, restyler, data_hash, key)


def _shown(plan: Plan, splits: Splits) -> tuple[Splits, Path | None, list[Sample]]:
    """The data as the mode shows it, the one template that all images share, and templates that are learned from."""
    if not plan.mode.with_template:
        return without_template(splits), None, []
    templates = templates_of(splits)
    refuse_held_back(templates, splits)
    template = None
    if len(templates) == 1:
        template = matched_template(
            templates[0], [s.image for s in splits.train], plan.artifacts, plan.mode.colours or "none"
        )
        splits, templates = with_template(splits, template), [template]
    # of pairs, the training images' own alone
    learned = {s.template for s in splits.train} - {s.image for s in splits.train}
    return splits, template, [Sample(t, OK, template=t, origin="template") for t in templates if t in learned]
