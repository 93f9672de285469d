"""With or without the template: what of it samples carry, and how much each origin weighs in the loss."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anomalib_lite.data.sample import Sample, Splits
from anomalib_lite.errors import UserError

MODES = ("no_template", "template")


@dataclass(frozen=True)
class Mode:
    """Whether the template takes part, and how much each kind of image weighs in the loss.

    Attributes:
        name: no_template or template.
        weights: By origin; only their ratios count.
        generated: Weight of a generated image against 1 for a real one, in place of these ratios; 0: none takes part.
        colours: How a template's colours are first matched to the OK images' (histogram, reinhard or none).
    """

    name: str = "no_template"
    weights: Mapping[str, float] = field(default_factory=lambda: {"real": 9, "generated": 1})
    generated: float | None = None
    colours: str | None = None

    def __post_init__(self) -> None:
        if self.name not in MODES:
            raise UserError(f"mode.name must be one of {', '.join(MODES)}, not '{self.name}'.")

    @property
    def with_template(self) -> bool:
        return self.name == "template"


def templates_of(splits: Splits) -> list[Path]:
    """The templates of the samples, each once: a single one is the golden image of all, several are pairs' own.

    Errors: UserError where a sample has none.
    """
    bare = [s for _, samples in splits for s in samples if s.template is None]
    if bare:
        raise UserError(
            f"mode=template needs a template, and {bare[0].image} has none. Name the golden product's image with "
            "data.template=FILE, or take data whose images come with their own, e.g. data=deeppcb."
        )
    return sorted({s.template for _, samples in splits for s in samples if s.template})


def refuse_held_back(templates: Sequence[Path], splits: Splits) -> None:
    """Errors: UserError where a template, which is learned from, is a held-out or a test image, by its content."""
    by_size: dict[int, list[tuple[str, Path]]] = {}
    for kind, samples in (("held-out", splits.val), ("test", splits.test)):
        for sample in samples:
            by_size.setdefault(sample.image.stat().st_size, []).append((kind, sample.image))
    for template in templates:
        for kind, image in by_size.get(template.stat().st_size, ()):
            if filecmp.cmp(template, image, shallow=False):
                raise UserError(
                    f"The template {template} is one of the {kind} images, {image}, and mode=template learns from it. "
                    f"Name an OK image that is learned from anyway, such as data.template={splits.train[0].image}, or "
                    "keep the template out of the data."
                )


def weighted(samples: Sequence[Sample], weights: Mapping[str, float], generated: float | None = None) -> list[Sample]:
    """Samples with their weight in the loss by origin, those of weight 0 left out.

    weights: by origin; only their ratios count, a real image gets 1. generated: weight of any generated image against
    1 for a real one; replaces the ratios of the two origins that generators have. A sample's own weight is a factor.
    """
    if not weights.get("real", 0) > 0:
        raise UserError(f"mode.weights.real must be above 0, since the others count against it: {dict(weights)}.")
    relative = {origin: value / weights["real"] for origin, value in weights.items()}
    if generated is not None:
        relative |= {"generated": generated, "template_generated": generated}
    if any(value < 0 for value in relative.values()):
        raise UserError(f"mode.weights must not be negative: {dict(relative)}.")
    missing = {s.origin for s in samples} - set(relative)
    if missing:
        raise UserError(f"mode.weights names no weight for images of origin {', '.join(sorted(missing))}.")
    return [replace(s, weight=s.weight * relative[s.origin]) for s in samples if relative[s.origin]]
