"""Where the jobs meet the room of defects: an inspector is found in training, and used wherever maps are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalib_lite.data.decode import read_image, resize_image

if TYPE_CHECKING:
    from anomalib_lite.data.images import ImageSet
    from anomalib_lite.defects import DefectCollector, Inspector, LevelsOfMaps
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


def open_collector(run: Path, threshold: Threshold) -> DefectCollector | None:
    """An empty one for a finished training's inspector; None where it has none."""
    if not (run / INSPECTOR).is_dir():
        return None
    from anomalib_lite.defects import DefectCollector, load_inspector

    return DefectCollector(load_inspector(run / INSPECTOR), threshold.pixel)


def _real(images: ImageSet) -> Iterator[np.ndarray]:
    from anomalib_lite.data.images import to_pixels

    for index, sample in enumerate(images.samples):
        if sample.origin == "real":
            yield to_pixels(images[[index]].image)[0]
