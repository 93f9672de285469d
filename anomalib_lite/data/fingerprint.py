"""Hashes a data set, and tells by content which images a trained run has learned from."""

import hashlib
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from anomalib_lite.data.sample import OK, Sample, Splits
from anomalib_lite.errors import UserError
from anomalib_lite.runs.artifacts import content_hash

log = logging.getLogger(__name__)


def fingerprint(splits: Splits) -> str:
    """Returns a SHA-256 over every sample's split, label, defect and weight, and its files' names, sizes and contents.

    Names are relative to the files' common folder, so that moving a whole data set keeps its fingerprint.
    """
    lines = [(name, sample) for name, samples in splits for sample in samples]
    content = digests(path for _, sample in lines for _, path in _files(sample))
    base = os.path.commonpath([p.absolute().parent for p in content]) if content else "."
    total = hashlib.sha256()
    for split, sample in lines:
        parts = [split, str(sample.label), str(sample.defect), sample.origin, str(sample.weight)]
        parts += [f"{role}:{os.path.relpath(p.absolute(), base)}:{content[p]}" for role, p in _files(sample)]
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


def describe(splits: Splits, missed: Sequence[Path] = ()) -> dict[str, Any]:
    """Returns a run's record of its data: fingerprint, bit depth, and the digests of the images it learned from.

    missed: further images that its threshold was set with.
    """
    images = digests((*(s.image for s in splits.train + splits.val), *missed))
    learned = {content: str(image) for image, content in images.items()}
    return {"fingerprint": fingerprint(splits), "bits": next((s.bits for s in splits.train), None), "learned": learned}


def check_same_data(splits: Splits, record: Mapping[str, Any], own: bool) -> list[Sample]:
    """Returns the images to evaluate a trained run on; never those that it learned from.

    For data with the run's fingerprint, wherever it lies, these are its test images. For other data they are its test
    images, too, but all images if its OK test images were only a random part of the OK images: the run learned from
    none of them. Raises UserError if the run's own data has changed, or no image is left.

    Args:
        splits: The data to evaluate on.
        record: The result of `describe` at training time.
        own: Whether `splits` is the run's configured data, as the user named no other.
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


def _files(sample: Sample) -> list[tuple[str, Path]]:
    named = (("image", sample.image), ("mask", sample.mask), ("template", sample.template))
    return [(role, path) for role, path in named if path is not None]
