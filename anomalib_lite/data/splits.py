"""Splits the images of every reader into training, held-out and test images, without copies across the splits.

Knows images by their content: hashes a data set, and tells which images a trained run has learned from.
"""

import hashlib
import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomalib_lite.data.decode import common_depth
from anomalib_lite.data.files import same_form
from anomalib_lite.data.sample import OK, Sample, Splits
from anomalib_lite.errors import UserError
from anomalib_lite.runs.artifacts import content_hash
from anomalib_lite.settings.training import Mode

log = logging.getLogger(__name__)

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

    Without OK images the data only serves to test a trained run. File names relative to `root` determine the random
    draws. held_out: the data set's own OK images for thresholds, used instead of `val_share` of `ok`. test_share: of
    `ok`, moved to the test images. The other options are those of `settings.data`. Raises UserError for too few
    images, for copies with different labels, and for options out of range.
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
    splits = Splits(train, val, test, drawn).with_bits(common_depth([s.image for s in (*train, *val)], bits))
    if template is None:
        return splits
    path = Path(str(template)).expanduser()
    if not path.is_file():
        raise UserError(f"The template does not exist: {path.absolute()}. Set data.template to an image.")
    return splits.with_template(path)


def union(parts: Sequence[Splits]) -> Splits:
    """Merges several data sets; of images with equal content the first one is kept.

    All are read with the first bit depth, as the first model was. Raises UserError if a later one is larger, or the
    same content is labelled both OK and NOK.
    """
    depths = [s.bits for part in parts for _, samples in part for s in samples if s.bits]
    bits = depths[0] if depths else None
    if bits and max(depths) > bits:
        raise UserError(
            f"The new 16-bit images use {max(depths)} bits, but the earlier run reads {bits}, up to {2**bits - 1}. "
            f"Train a new run on all images, or set data.bits={bits} to clip what is brighter in the new ones."
        )
    pools = [[sample for part in parts for sample in getattr(part, name)] for name in ("test", "val", "train")]
    test, val, train = _without_copies(*pools)
    return Splits(train, val, test, any(part.drawn for part in parts)).with_bits(bits)


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

    A sample's rank thus does not depend on other files, and a smaller draw is a subset of a larger one.
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


def _without_copies(*pools: Sequence[Sample]) -> list[list[Sample]]:
    """Removes copies: each content stays only in the first pool that has it. Raises UserError as `union` does."""
    samples = [sample for pool in pools for sample in pool]
    content = digests(sample.image for sample in samples)
    first: dict[str, Sample] = {}
    copies: list[tuple[Path, Path]] = []
    for sample in samples:
        other = first.setdefault(content[sample.image], sample)
        if None not in (sample.label, other.label) and sample.label != other.label:
            twice = f"is the same image as {other.image}, but one is OK and the other NOK. Remove the wrong one."
            once = "is listed as OK and as NOK. Remove the wrong entry."
            raise UserError(f"{sample.image} {once if sample.image == other.image else twice}")
        if other is not sample:
            copies.append((sample.image, other.image))
    if copies:
        log.warning("%d images are copies of others and left out, such as %s of %s", len(copies), *copies[0])
    return [[sample for sample in pool if first[content[sample.image]] is sample] for pool in pools]


def fingerprint(splits: Splits) -> str:
    """Returns a SHA-256 over every sample's split, label, defect, weight and bits, and its files' names and contents.

    Names are relative to the files' common folder, so that moving a whole data set keeps its fingerprint.
    """
    roles = ("image", "mask", "template")
    lines = [(name, s, [(r, p) for r in roles if (p := getattr(s, r))]) for name, part in splits for s in part]
    content = digests(path for _, _, files in lines for _, path in files)
    base = os.path.commonpath([p.absolute().parent for p in content]) if content else "."
    total = hashlib.sha256()
    for split, s, files in lines:
        parts = [split, str(s.label), str(s.defect), s.origin, str(s.weight)]
        parts += [f"bits:{s.bits}"] if s.bits else []
        parts += [f"{role}:{os.path.relpath(p.absolute(), base)}:{content[p]}" for role, p in files]
        total.update("\t".join(parts).encode() + b"\n")
    return total.hexdigest()


def digest(path: Path) -> str:
    """Returns size and SHA-256 of a file, or a SHA-256 of a folder of masks. Raises UserError if it cannot be read."""
    if path.is_dir():
        return hashlib.sha256("".join(map(digest, sorted(path.glob("[!.]*")))).encode()).hexdigest()
    try:
        return f"{path.stat().st_size}:{content_hash(path.absolute())}"
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def digests(paths: Iterable[Path]) -> dict[Path, str]:
    """Computes the digests of many files in parallel."""
    distinct = sorted(set(paths))
    with ThreadPoolExecutor() as pool:
        return dict(zip(distinct, pool.map(digest, distinct), strict=True))


def describe(splits: Splits, also: Sequence[Path] = (), with_template: bool = False) -> dict[str, Any]:
    """Returns a run's record of its data: fingerprint, bit depth, and the digests of its templates and images.

    learned: of the images that it learned from, OK ones, those in `also`, and with `with_template` the templates.
    """
    templates = {s.template for _, samples in splits for s in samples if s.template} if with_template else set()
    images = digests((*(s.image for s in splits.train + splits.val), *also, *templates))
    return {
        "fingerprint": fingerprint(splits),
        "bits": next((s.bits for s in splits.train), None),
        "templates": sorted({images[template] for template in templates}),
        "learned": {content: str(image) for image, content in images.items()},
    }


def check_same_data(splits: Splits, record: Mapping[str, Any], own: bool) -> list[Sample]:
    """Returns the images to evaluate a trained run on; never those that it learned from.

    For data with the run's fingerprint, wherever it lies, these are its test images. For other data they are its test
    images, too, but all images if its OK test images were only a random part of the OK images: the run learned from
    none of them. Raises UserError if the run's own data has changed, or no image is left. record: from `describe`, at
    training time. own: whether `splits` is the run's configured data, as the user named no other.
    """
    if fingerprint(splits) == record["fingerprint"]:
        return unseen(splits.test, record["learned"])
    if own:
        now, then = set(digests(s.image for s in splits.train + splits.val).values()), set(record["learned"])
        raise UserError(
            f"The run's own data is not what it was when the run was trained: {len(then - now)} of the {len(then)} "
            "images that it learned from are gone or now belong to the test images, and it would learn from "
            f"{len(now - then)} other images. Restore the data, train again, or name the images to evaluate on: "
            "data=folder data.root=... data.test_ok=... data.nok=..."
        )
    samples = splits.test
    if splits.drawn:
        samples = sorted((s for _, part in splits for s in part), key=lambda s: (s.label != OK, s.image))
    new = unseen(samples, record["learned"])
    if not new:
        raise UserError("The run learned from all of these images: name other images to evaluate it on.")
    return new


def unseen(samples: Sequence[Sample], learned: Collection[str]) -> list[Sample]:
    """Returns the samples whose digest is not in `learned`."""
    content = digests(s.image for s in samples)
    new = [s for s in samples if content[s.image] not in learned]
    if len(new) < len(samples):
        log.warning("%d of %d images are left out: the run learned from them", len(samples) - len(new), len(samples))
    return new


def templates_of(splits: Splits) -> list[Path]:
    """Returns the distinct templates, one for all or one per pair. Raises UserError if a sample has none."""
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
    """Multiplies weights by those of the origins, and drops samples of weight 0; UserError if one is unfit."""
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
