"""Types found beside types that a data set names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anomalib_lite.defects.defect import Defect, Inspection

NOTHING = "nothing found"


@dataclass(frozen=True)
class Confusion:
    """truth, found: names of rows and of columns, the last column being `NOTHING`. counts: int (rows, columns).
    accuracy: of images on which a defect was found; None where there are none. unmapped: images whose name for the
    defect stands for no type.
    """

    truth: tuple[str, ...]
    found: tuple[str, ...]
    counts: np.ndarray
    accuracy: float | None
    unmapped: int = 0

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "truth": list(self.truth),
            "found": list(self.found),
            "counts": self.counts.tolist(),
            "accuracy": self.accuracy,
            "unmapped": self.unmapped,
        }


def confusion(
    names: Sequence[str | None], found: Sequence[str | None], mapping: Mapping[str, str], types: Sequence[str]
) -> Confusion:
    """Over the images of a test set, one entry each.

    names: the data set's name of the image's defect, None for OK and unlabelled images, which do not count. found: the
    type that was found (see `matching`), None where there was nothing. mapping: name -> type.
    """
    counts, columns = np.zeros((len(types), len(types) + 1), int), list(types)
    unmapped = sum(name is not None and name not in mapping for name in names)
    for name, kind in zip(names, found, strict=True):
        if name in mapping:
            counts[columns.index(mapping[name]), len(types) if kind is None else columns.index(kind)] += 1
    detected = int(counts[:, :-1].sum())
    accuracy = float(np.trace(counts[:, :-1]) / detected) if detected else None
    return Confusion(tuple(types), (*types, NOTHING), counts, accuracy, unmapped)


def matching(inspection: Inspection, mask: np.ndarray | None) -> Defect | None:
    """The defect that covers most of a true mask, or the worst one where there is no mask; None where none does."""
    if mask is None or not mask.any():
        return inspection.worst
    best, most = None, 0
    for defect in inspection.defects:
        common = int((defect.mask & at_size(mask, defect.mask.shape)).sum())
        if common > most:
            best, most = defect, common
    return best


def at_size(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask by its nearest pixels at another size."""
    if mask.shape == shape:
        return mask
    rows, columns = ((np.arange(new) + 0.5) * old / new for new, old in zip(shape, mask.shape, strict=True))
    return mask[np.ix_(rows.astype(int), columns.astype(int))]
