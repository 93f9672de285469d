"""From images of all readers to what is learned from, held out and tested on: each content once and on one side.

With or without the template: what of it samples carry, and how much each origin weighs in the loss.
"""

import hashlib
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from anomalib_lite.data.decode import DEPTHS, brightest, depth_of
from anomalib_lite.data.files import same_form
from anomalib_lite.data.fingerprint import digest, digests
from anomalib_lite.data.sample import OK, Sample, Splits
from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import Mode

log = logging.getLogger(__name__)

PROBED = 32  # images that a data set's bit depth is read from
SALT = 1_000_003  # so that the test images are not the ones that the validation split would take first


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
    The others are what every reader takes, see `settings.data.Reader`.

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
            ok, kept = hold_out(ok, test_share, split_seed + SALT, root, 1 + (not held_out), "data.test_ok_share")
            test = [*kept, *test]
        train, val = (ok, held_out) if held_out else hold_out(ok, val_share, split_seed, root)
        if shots is not None:
            if not isinstance(shots, int) or not 1 <= shots <= len(train):
                raise UserError(f"data.shots must lie between 1 and the {len(train)} OK images there are, not {shots}.")
            _, train = _drawn(train, shots, shots_seed, root)
            log.info("%d OK images are learned from, %d others are held out for the threshold", len(train), len(val))
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
    samples: Sequence[Sample], share: float, seed: int, root: Path, rest: int = 1, option: str = "data.val_share"
) -> tuple[list[Sample], list[Sample]]:
    """(others, chosen): `share` of the samples, see `_drawn`. rest: how many others are left at least.

    Errors: UserError for a share, which `option` sets, out of range: the settings of one's own reader have no ranges.
    """
    if not 0 < share < 1:
        raise UserError(f"{option} must lie between 0 and 1, not {share}.")
    return _drawn(samples, min(math.ceil(share * len(samples)), len(samples) - rest), seed, root)


def _drawn(samples: Sequence[Sample], count: int, seed: int, root: Path) -> tuple[list[Sample], list[Sample]]:
    """(others, chosen): by a hash of each name, so that the choice depends on neither the order nor the presence of
    other files, and fewer are among more.
    """

    def rank(sample: Sample) -> str:
        name = sample.image.relative_to(root) if sample.image.is_relative_to(root) else sample.image
        return hashlib.sha256(f"{seed}/{same_form(name.as_posix())}".encode()).hexdigest()

    chosen = {s.image for s in sorted(samples, key=rank)[:count]}
    return [s for s in samples if s.image not in chosen], [s for s in samples if s.image in chosen]


def need_training_images(splits: Splits) -> None:
    """Errors: UserError for data that is there for testing alone."""
    if not splits.train:
        raise UserError("This data has no OK images to learn from: set data.ok, or use it with `evaluate`.")


def _bits_of(known: Sequence[Sample]) -> int | None:
    """One scale for the 16-bit files of a data set, by the brightest of its OK images; None where they have 8."""
    if not known or brightest(known[0].image) is None:
        return None
    probes = known[:: math.ceil(len(known) / PROBED)]
    bits = depth_of(max(value for s in probes if (value := brightest(s.image)) is not None))
    log.info("16-bit files: they use %d bits, values up to %d (data.bits says otherwise)", bits, 2**bits - 1)
    return bits


def ok_samples(images: Iterable[Path]) -> list[Sample]:
    return [Sample(image, OK) for image in images]


def _without_copies(*pools: Sequence[Sample]) -> list[list[Sample]]:
    """Files of one content count once, in the first pool that has them.

    Errors: UserError where one content is both OK and NOK.
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
        told = "%d images are copies of others, which count once and on one side of every split, such as %s of %s"
        log.warning(told, len(copies), *copies[0])
    return [[sample for sample in pool if first[content[sample.image]] is sample] for pool in pools]


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
    for kind, samples in (("held-out", splits.val), ("test", splits.test)):
        held_back = {content: image for image, content in digests(s.image for s in samples).items()}
        for template in templates:
            if image := held_back.get(digest(template)):
                raise UserError(
                    f"The template {template} is one of the {kind} images, {image}, and mode=template learns from it. "
                    f"Name an OK image that is learned from anyway, such as data.template={splits.train[0].image}, or "
                    "keep the template out of the data."
                )


def weighted(samples: Sequence[Sample], mode: Mode) -> list[Sample]:
    """Samples with their weight in the loss, of which their own is a factor; those of weight 0 are left out.

    Errors: UserError for weights that are negative or missing.
    """
    if not mode.weights.get("real", 0) > 0:
        raise UserError(f"mode.weights.real must be above 0, since the others count against it: {mode.weights}.")
    relative = {origin: value / mode.weights["real"] for origin, value in mode.weights.items()}
    if mode.generated is not None:
        relative |= {"generated": mode.generated, "template_generated": mode.generated}
    if any(value < 0 for value in relative.values()):
        raise UserError(f"mode.weights must not be negative: {relative}.")
    if missing := {s.origin for s in samples} - set(relative):
        raise UserError(f"mode.weights names no weight for images of origin {', '.join(sorted(missing))}.")
    return [replace(s, weight=s.weight * relative[s.origin]) for s in samples if relative[s.origin]]
