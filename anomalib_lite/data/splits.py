"""From images of all readers to what is learned from, held out and tested on: each content once and on one side.

With or without the template: what of it samples carry, and how much each origin weighs in the loss.
"""

import filecmp
import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

from anomalib_lite.data.decode import DEPTHS, brightest, depth_of
from anomalib_lite.data.files import same_form
from anomalib_lite.data.fingerprint import digest
from anomalib_lite.data.sample import OK, Sample, Splits
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

PROBED = 32  # images that a data set's bit depth is read from
MODES = ("no_template", "template")
SALT = 1_000_003  # so that the test images are not the ones that the validation split would take first


class Drawing(TypedDict, total=False):
    """What every reader takes. template: image of one golden product. val_share: of the OK images, held out for the
    threshold, by split_seed. shots: how many of the others are learned from, drawn by shots_seed; None takes all.
    bits: those that 16-bit files use; None reads it from the OK images.
    """

    template: str | Path | None
    val_share: float
    split_seed: int
    shots: int | None
    shots_seed: int
    bits: int | None


def make_splits(
    ok: Sequence[Sample],
    test: Sequence[Sample],
    root: Path,
    held_out: Sequence[Sample] = (),
    test_share: float = 0,
    template: str | Path | None = None,
    val_share: float = 0.2,
    split_seed: int = 0,
    shots: int | None = None,
    shots_seed: int = 0,
    bits: int | None = None,
) -> Splits:
    """held_out: OK images that the data set itself keeps for thresholds; else `val_share` of `ok` is.
    test_share: of `ok`, kept for testing. Without OK images to learn from there is only what to test on.

    Errors: UserError for too few images, for one content with two labels, and for settings out of range.
    """
    given = len(ok)
    test, held_out, ok = _without_copies(test, held_out, ok)
    drawn = bool(test_share)
    if ok:
        need = 1 + (not held_out) + drawn
        if len(ok) < need:
            same = f" ({given} files, the others are copies)" if given > len(ok) else ""
            uses = "to learn from" + ", one for the threshold" * (not held_out) + ", one to test on" * drawn
            raise UserError(f"{len(ok)} OK images{same} are too few: one is needed {uses}. Add OK images.")
        if drawn:
            ok, kept = hold_out(ok, test_share, split_seed + SALT, root, "data.test_ok_share", 1 + (not held_out))
            test = [*kept, *test]
        train, val = (ok, held_out) if held_out else hold_out(ok, val_share, split_seed, root)
        train = _draw(train, shots, shots_seed, root)
        if shots is not None:
            log.info("%d OK images are learned from, %d others are held out for the threshold", len(train), len(val))
    else:
        train, val = [], []
    if bits not in (None, *DEPTHS):
        raise UserError(f"data.bits must be one of {', '.join(map(str, DEPTHS))} or null, not {bits}.")
    splits = with_bits(Splits(train, val, test, drawn), bits)
    if template is None:
        return splits
    path = Path(str(template)).expanduser()
    if not path.is_file():
        raise UserError(f"The template does not exist: {path.absolute()}.")
    return splits.with_template(path)


def union(parts: Sequence[Splits]) -> Splits:
    """Several data sets as one; a content that several hold counts once, as the first of them has it.

    Errors: UserError where one content is both OK and NOK.
    """
    pools = [[sample for part in parts for sample in getattr(part, name)] for name in ("test", "val", "train")]
    test, val, train = _without_copies(*pools)
    return Splits(train, val, test, any(part.drawn for part in parts))


def hold_out(
    samples: Sequence[Sample], share: float, seed: int, root: Path, option: str = "data.val_share", rest: int = 1
) -> tuple[list[Sample], list[Sample]]:
    """(others, chosen): `share` of the samples is chosen by a hash of each name, so that the choice depends on
    neither the order nor the presence of other files. rest: how many others are left at least.

    Errors: UserError where either part would be empty.
    """
    if not 0 < share < 1:
        raise UserError(f"{option} must lie between 0 and 1, but is {share}.")
    ordered = _ranked(samples, seed, root)
    count = min(math.ceil(share * len(ordered)), len(ordered) - rest)
    if count < 1:
        raise UserError(f"{len(ordered)} OK images are too few to hold any out ({option}={share}). Add OK images.")
    chosen = {s.image for s in ordered[:count]}
    return [s for s in samples if s.image not in chosen], [s for s in samples if s.image in chosen]


def need_training_images(splits: Splits) -> None:
    """Errors: UserError for data that is there for testing alone."""
    if not splits.train:
        raise UserError("This data has no OK images to learn from: set data.ok, or use it with `evaluate`.")


def with_bits(splits: Splits, bits: int | None) -> Splits:
    """One scale for the 16-bit files of a data set, by the brightest of its OK images."""
    known = splits.train + splits.val
    if bits is None and known:
        first = brightest(known[0].image)
        if first is not None:
            probes = known[:: math.ceil(len(known) / PROBED)]
            bits = depth_of(max(value for s in probes if (value := brightest(s.image)) is not None))
            log.info("16-bit files: they use %d bits, values up to %d (data.bits says otherwise)", bits, 2**bits - 1)
    return splits if bits is None else splits.each(lambda sample: replace(sample, bits=bits))


def ok_samples(images: Iterable[Path]) -> list[Sample]:
    return [Sample(image, OK) for image in images]


def _draw(samples: Sequence[Sample], shots: int | None, seed: int, root: Path) -> list[Sample]:
    """The few of 2 shots are among those of 4."""
    if shots is None:
        return list(samples)
    if not isinstance(shots, int) or not 1 <= shots <= len(samples):
        raise UserError(f"data.shots must lie between 1 and the {len(samples)} OK images there are, but is {shots}.")
    chosen = {s.image for s in _ranked(samples, seed, root)[:shots]}
    return [s for s in samples if s.image in chosen]


def _ranked(samples: Sequence[Sample], seed: int, root: Path) -> list[Sample]:
    def rank(sample: Sample) -> str:
        name = sample.image.relative_to(root) if sample.image.is_relative_to(root) else sample.image
        return hashlib.sha256(f"{seed}/{same_form(name.as_posix())}".encode()).hexdigest()

    return sorted(samples, key=rank)


def _without_copies(*pools: Sequence[Sample]) -> list[list[Sample]]:
    """Files of one content count once, in the first pool that has them.

    Errors: UserError where one content is both OK and NOK.
    """
    first: dict[str, Sample] = {}
    copies: list[tuple[Sample, Sample]] = []
    kept: list[list[Sample]] = [[] for _ in pools]
    twins = _twins(sample.image for pool in pools for sample in pool)
    for pool, rest in zip(pools, kept, strict=True):
        for sample in pool:
            content = twins.get(sample.image, str(sample.image))
            other = first.setdefault(content, sample)
            if other is sample:
                rest.append(sample)
                continue
            if None not in (sample.label, other.label) and sample.label != other.label:
                raise UserError(
                    f"{sample.image} is the same image as {other.image}, but one of them is OK and the other NOK. "
                    "Remove the wrong one."
                )
            copies.append((sample, other))
    if copies:
        log.warning(
            "%d images are copies of others, which count once and on one side of every split, such as %s of %s",
            len(copies), *(s.image for s in copies[0]),
        )  # fmt: skip
    return kept


def _twins(images: Iterable[Path]) -> dict[Path, str]:
    """Content hashes of the files whose size is not theirs alone."""
    by_size: dict[int, list[Path]] = {}
    for image in images:
        if image.exists():  # an absent one is named where it is decoded
            by_size.setdefault(image.stat().st_size, []).append(image)
    return {image: digest(image) for same in by_size.values() if len(same) > 1 for image in same}


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
