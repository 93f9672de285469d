"""A hash that changes when the data changes, and what a run keeps to know its data again."""

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
    """SHA-256 over split, label, defect, weight, and name, size and content of every image, mask and template.

    Names are taken relative to the files' common folder, so that moving a data set as a whole keeps its fingerprint.
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
    """Size and SHA-256 of a file, or of the files in a folder of masks. Errors: UserError."""
    if path.is_dir():
        return hashlib.sha256("".join(map(digest, sorted(path.glob("[!.]*")))).encode()).hexdigest()
    try:
        return f"{path.stat().st_size}:{content_hash(path.absolute())}"
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def digests(paths: Iterable[Path]) -> dict[Path, str]:
    """Of many files at once."""
    distinct = sorted(set(paths))
    with ThreadPoolExecutor() as pool:
        return dict(zip(distinct, pool.map(digest, distinct), strict=True))


def describe(splits: Splits, missed: Sequence[Path] = ()) -> dict[str, Any]:
    """What a run keeps of its data: the fingerprint, the bits of 16-bit files, and what it learned from, by content;
    missed: images that its threshold was set by.
    """
    images = digests((*(s.image for s in splits.train + splits.val), *missed))
    learned = {content: str(image) for image, content in images.items()}
    return {"fingerprint": fingerprint(splits), "bits": next((s.bits for s in splits.train), None), "learned": learned}


def check_same_data(splits: Splits, known: Mapping[str, Any], own: bool) -> list[Sample]:
    """The images to measure a trained run on.

    known: what `describe` said when it was trained. own: whether no other data was named. Data of the same
    fingerprint, wherever it lies, gives its own test images. Of other data, where the OK images for testing would be
    drawn from those that are given, nothing is learned, so all are measured; images that the run learned from never.
    Errors: UserError where a run's own data is not what it was, and where nothing is left.
    """
    if fingerprint(splits) == known["fingerprint"]:
        return unknown(splits.test, known["learned"])
    if own:
        now, then = set(digests(s.image for s in splits.train + splits.val).values()), set(known["learned"])
        raise UserError(
            "The run's own data is not what it was when the run was trained: of the images that it learned from, "
            f"{len(then - now)} of {len(then)} would now be tested on or are gone, and {len(now - then)} others would "
            "be learned from. Put the data back, train again, or name what is to be measured: data=folder "
            "data.root=... data.test_ok=... data.nok=..."
        )
    samples = splits.test
    if splits.drawn:
        samples = sorted((s for _, part in splits for s in part), key=lambda s: (s.label != OK, s.image))
    new = unknown(samples, known["learned"])
    if not new:
        raise UserError("The run learned from all of these images: there is nothing to measure it on.")
    return new


def unknown(samples: Sequence[Sample], learned: Collection[str]) -> list[Sample]:
    """Those whose content is not among the digests of what was learned from."""
    content = digests(s.image for s in samples)
    new = [s for s in samples if content[s.image] not in learned]
    if len(new) < len(samples):
        log.warning("%d of %d images are left out: the run learned from them", len(samples) - len(new), len(samples))
    return new


def _files(sample: Sample) -> list[tuple[str, Path]]:
    named = (("image", sample.image), ("mask", sample.mask), ("template", sample.template))
    return [(role, path) for role, path in named if path is not None]
