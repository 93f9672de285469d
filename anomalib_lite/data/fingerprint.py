"""A hash that changes when the data changes."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from anomalib_lite.data.sample import Sample, Splits
from anomalib_lite.errors import UserError


def fingerprint(splits: Splits) -> str:
    """SHA-256 over split, label, defect, weight, and name, size and content of every image, mask and template.

    Names are taken relative to the files' common folder, so that moving a data set as a whole keeps its fingerprint.
    """
    lines = [(name, sample) for name, samples in splits for sample in samples]
    paths = sorted({path for _, sample in lines for _, path in _files(sample)})
    with ThreadPoolExecutor() as pool:
        digests = dict(zip(paths, pool.map(_digest, paths), strict=True))
    base = os.path.commonpath([p.absolute().parent for p in paths]) if paths else "."
    total = hashlib.sha256()
    for split, sample in lines:
        parts = [split, str(sample.label), str(sample.defect), sample.origin, str(sample.weight)]
        parts += [f"{role}:{os.path.relpath(p.absolute(), base)}:{digests[p]}" for role, p in _files(sample)]
        total.update("\t".join(parts).encode() + b"\n")
    return total.hexdigest()


def _files(sample: Sample) -> list[tuple[str, Path]]:
    named = (("image", sample.image), ("mask", sample.mask), ("template", sample.template))
    return [(role, path) for role, path in named if path is not None]


def _digest(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return f"{len(data)}:{hashlib.sha256(data).hexdigest()}"
