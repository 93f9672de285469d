"""Splits the images of every reader into training, held-out and test images, without copies across the splits.

Also checks the templates of a data set, and sets the weight of each sample in the loss.
"""

import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from anomalib_lite.data.decode import DEPTHS, brightest, depth_of
from anomalib_lite.data.files import same_form
from anomalib_lite.data.fingerprint import digest, digests
from anomalib_lite.data.sample import OK, Sample, Splits
from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import Mode

log = logging.getLogger(__name__)

PROBED = 32  # images that a data set's bit depth is estimated from
SALT = 1_000_003  # added to the seed of the test split, so that it draws other images than the validation split


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
    """Splits the OK images into training and held-out images; every reader calls this.

    Raises UserError for too few images, for copies with different labels, and for options out of range.

    Args:
        ok: OK images; without any, the data only serves to test a trained run.
        test: Test images.
        root: Folder of the data set; file names relative to it determine the random draws.
        held_out: The data set's own OK images for thresholds, used instead of `val_share` of `ok`.
        test_share: Share of `ok` that is moved to the test images.
        template, val_share, split_seed, shots, shots_seed, bits: See `settings.data`.
    """
    files = len(ok)
    test, held_out, ok = _without_copies(test, held_out, ok)
    drawn = bool(test_share)
    if ok:
        need = 1 + (not held_out) + drawn
        if len(ok) < need:
            copies = f" ({files} files, the others are copies)" if files > len(ok) else ""
            uses = "to learn from" + ", one for the threshold" * (not held_out) + ", one to test on" * drawn
            raise UserError(f"{len(ok)} OK images{copies} are too few: one is needed {uses}. Add OK images.")
        if drawn:
            ok, ok_test = hold_out(ok, test_share, split_seed + SALT, root, 1 + (not held_out), "data.test_ok_share")
            test = [*ok_test, *test]
        train, val = (ok, held_out) if held_out else hold_out(ok, val_share, split_seed, root)
        if shots is not None:
            fewest = min(Counter(sample.category for sample in train).values())
            if not isinstance(shots, int) or not 1 <= shots <= fewest:
                raise UserError(f"data.shots must lie between 1 and {fewest}, the OK images per category, not {shots}.")
            _, train = _drawn(train, lambda _: shots, shots_seed, root)
            log.info("Training on %d OK images; %d others are held out for the threshold", len(train), len(val))
    else:
        train, val = [], []
    if bits not in (None, *DEPTHS):
        raise UserError(f"data.bits must be one of {', '.join(map(str, DEPTHS))} or null, not {bits}.")
    bits = bits or _bits_of([*train, *val])
    splits = Splits(train, val, test, drawn).each(lambda sample: replace(sample, bits=bits))
    if template is None:
        return splits
    path = Path(str(template)).expanduser()
    if not path.is_file():
        raise UserError(f"The template does not exist: {path.absolute()}. Set data.template to an image.")
    return splits.with_template(path)


def union(parts: Sequence[Splits]) -> Splits:
    """Merges several data sets; of images with equal content the first one is kept.

    Raises UserError if the same content is labelled both OK and NOK.
    """
    pools = [[sample for part in parts for sample in getattr(part, name)] for name in ("test", "val", "train")]
    test, val, train = _without_copies(*pools)
    return Splits(train, val, test, any(part.drawn for part in parts))


def hold_out(
    samples: Sequence[Sample], share: float, seed: int, root: Path, rest: int = 1, option: str = "data.val_share"
) -> tuple[list[Sample], list[Sample]]:
    """Holds out a share of the samples as `_drawn` does; returns (remaining, held out), with at least `rest` remaining.

    Raises UserError, with the name of the `option`, if the share is out of range: a user's own reader does not check.
    """
    if not 0 < share < 1:
        raise UserError(f"{option} must lie between 0 and 1, not {share}.")
    return _drawn(samples, lambda n: min(math.ceil(share * n), n - rest), seed, root)


def _drawn(
    samples: Sequence[Sample], count: Callable[[int], int], seed: int, root: Path
) -> tuple[list[Sample], list[Sample]]:
    """Draws `count` samples of each category by a hash of their names; returns (remaining, drawn).

    A sample's rank thus does not depend on the order or presence of other files, and a smaller draw is a subset of a
    larger one.
    """

    def rank(sample: Sample) -> str:
        name = sample.image.relative_to(root) if sample.image.is_relative_to(root) else sample.image
        return hashlib.sha256(f"{seed}/{same_form(name.as_posix())}".encode()).hexdigest()

    categories = defaultdict[str | None, list[Sample]](list)
    for sample in sorted(samples, key=rank):
        categories[sample.category].append(sample)
    chosen = {s.image for own in categories.values() for s in own[: count(len(own))]}
    return [s for s in samples if s.image not in chosen], [s for s in samples if s.image in chosen]


def need_training_images(splits: Splits) -> None:
    """Raises UserError if the data has test images only."""
    if not splits.train:
        raise UserError("This data has no OK images to learn from: set data.ok, or use it with `evaluate`.")


def _bits_of(ok: Sequence[Sample]) -> int | None:
    """Estimates one bit depth for a data set from its brightest OK images; None if its files have 8 bits."""
    if not ok or brightest(ok[0].image) is None:
        return None
    probes = ok[:: math.ceil(len(ok) / PROBED)]
    bits = depth_of(max(value for s in probes if (value := brightest(s.image)) is not None))
    log.info("The 16-bit files use %d bits, values up to %d; set data.bits if that is wrong", bits, 2**bits - 1)
    return bits


def ok_samples(images: Iterable[Path]) -> list[Sample]:
    return [Sample(image, OK) for image in images]


def _without_copies(*pools: Sequence[Sample]) -> list[list[Sample]]:
    """Removes copies: each content stays only in the first pool that has it.

    Raises UserError if the same content is labelled both OK and NOK.
    """
    content = digests(sample.image for pool in pools for sample in pool)
    first: dict[str, Sample] = {}
    copies: list[tuple[Path, Path]] = []
    for sample in (sample for pool in pools for sample in pool):
        other = first.setdefault(content[sample.image], sample)
        if None not in (sample.label, other.label) and sample.label != other.label:
            raise UserError(
                f"{sample.image} is listed as OK and as NOK. Remove the wrong entry."
                if sample.image == other.image
                else f"{sample.image} is the same image as {other.image}, but one of them is OK and the other NOK. "
                "Remove the wrong one."
            )
        if other is not sample:
            copies.append((sample.image, other.image))
    if copies:
        log.warning("%d images are copies of others and left out, such as %s of %s", len(copies), *copies[0])
    return [[sample for sample in pool if first[content[sample.image]] is sample] for pool in pools]


def templates_of(splits: Splits) -> list[Path]:
    """Returns the distinct templates of the samples: one golden image for all, or one per pair.

    Raises UserError if a sample has no template.
    """
    lacking = [s for _, samples in splits for s in samples if s.template is None]
    if lacking:
        raise UserError(
            f"mode=template needs a template, and {lacking[0].image} has none. Name the golden product's image with "
            "data.template=FILE, or use data whose images have their own templates, e.g. data=deeppcb."
        )
    return sorted({s.template for _, samples in splits for s in samples if s.template})


def refuse_held_back(templates: Sequence[Path], splits: Splits) -> None:
    """Raises UserError if a template, from which mode=template learns, equals a held-out or test image by content."""
    for kind, samples in (("held-out", splits.val), ("test", splits.test)):
        held_back = {content: image for image, content in digests(s.image for s in samples).items()}
        for template in templates:
            if image := held_back.get(digest(template)):
                raise UserError(
                    f"The template {template} is one of the {kind} images, {image}, but mode=template learns from it. "
                    f"Name a training image, such as data.template={splits.train[0].image}, or remove the template "
                    "from the data."
                )


def weighted(samples: Sequence[Sample], mode: Mode) -> list[Sample]:
    """Multiplies each sample's weight by its origin's weight in the loss, and drops samples of weight 0.

    Raises UserError if a weight is negative or missing.
    """
    if not mode.weights.get("real", 0) > 0:
        raise UserError(f"mode.weights.real must be above 0, as the others are relative to it: {mode.weights}.")
    relative = {origin: value / mode.weights["real"] for origin, value in mode.weights.items()}
    if mode.generated is not None:
        relative |= {"generated": mode.generated, "template_generated": mode.generated}
    if any(value < 0 for value in relative.values()):
        raise UserError(f"mode.weights must not be negative: {relative}.")
    if missing := {s.origin for s in samples} - set(relative):
        raise UserError(f"mode.weights names no weight for images of origin {', '.join(sorted(missing))}.")
    return [replace(s, weight=s.weight * relative[s.origin]) for s in samples if relative[s.origin]]
