"""Where the jobs meet the room of defects: an inspector is found in training, and used wherever maps are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalib_lite.data.decode import read_image, resize_image
from anomalib_lite.data.files import short_name

if TYPE_CHECKING:
    from anomalib_lite.data.images import ImageSet
    from anomalib_lite.data.sample import Batch
    from anomalib_lite.defects import Inspector, LevelsOfMaps
    from anomalib_lite.defects.book import DefectBook
    from anomalib_lite.detectors.model import Prediction
    from anomalib_lite.scoring import Threshold

INSPECTOR = "inspector"  # folder in a run's folder


def make_inspector(
    config: Mapping[str, Any] | None, run: Path, train: ImageSet, levels: LevelsOfMaps, template: Path | None
) -> Inspector | None:
    """Found from the real OK images of the training set, and saved in the run's folder.

    config: plain values, the group `defects`; None or without types: no inspector. levels: of the maps of held-out OK
    images. template: the picture of the perfect product, or None.
    """
    if not config or not config.get("types"):
        return None
    from anomalib_lite.defects import prepare_inspector

    golden = None if template is None else resize_image(read_image(template), *train.size)
    inspector = prepare_inspector(config, _real(train), levels.compute(), golden)
    inspector.save(run / INSPECTOR, config)
    return inspector


def open_book(run: Path, threshold: Threshold) -> DefectBook | None:
    """An empty book for a finished training's inspector; None where it has none."""
    if not (run / INSPECTOR).is_dir():
        return None
    from anomalib_lite.defects import load_inspector
    from anomalib_lite.defects.book import DefectBook

    return DefectBook(load_inspector(run / INSPECTOR), threshold.pixel)


def add_batch(book: DefectBook | None, images: ImageSet, batch: Batch, prediction: Prediction) -> None:
    """Inspects a batch of maps; without a book nothing happens. Names are the last two parts of the paths."""
    if book is None:
        return
    from anomalib_lite.data.images import to_pixels

    for k, (index, picture) in enumerate(zip(batch.index.tolist(), to_pixels(batch.image), strict=True)):
        sample = images.samples[index]
        mask = batch.mask[k, 0].numpy() if sample.mask is not None else None
        defect = sample.defect if sample.label else None
        book.add(short_name(sample.image), picture, prediction.map[k, 0].numpy(), defect, mask)


def _real(images: ImageSet) -> Iterator[np.ndarray]:
    from anomalib_lite.data.images import to_pixels

    for index, sample in enumerate(images.samples):
        if sample.origin == "real":
            yield to_pixels(images[[index]].image)[0]
