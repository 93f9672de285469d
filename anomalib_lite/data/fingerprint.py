"""A hash that changes when the data changes."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from anomalib_lite.data.sample import Sample, Splits
from anomalib_lite.errors import UserError


def fingerprint(splits: Splits) -> str:
    """SHA-256 over split, label, defect, name, size and content of every image, mask and template (hex digits).

    Names are taken relative to the files' common folder, so that moving a data set as a whole keeps its fingerprint.
    """
    lines = [(name, sample) for name, samples in splits for sample in samples]
    paths = sorted({path for _, sample in lines for path in _files(sample)})
    with ThreadPoolExecutor() as pool:
        digests = dict(zip(paths, pool.map(_digest, paths), strict=True))
    base = os.path.commonpath([p.absolute().parent for p in paths]) if paths else "."
    total = hashlib.sha256()
    for split, sample in lines:
        parts = [split, str(sample.label), str(sample.defect), sample.origin]
        parts += [f"{os.path.relpath(p.absolute(), base)}:{digests[p]}" for p in _files(sample)]
        total.update("\t".join(parts).encode() + b"\n")
    return total.hexdigest()


def _files(sample: Sample) -> list[Path]:
    return [p for p in (sample.image, sample.mask, sample.template) if p is not None]


def _digest(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return f"{len(data)}:{hashlib.sha256(data).hexdigest()}"
