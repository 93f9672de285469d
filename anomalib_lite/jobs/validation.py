"""A figure to choose settings by that no test image takes part in: OK images against drawn defects."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from anomalib_lite.augment.drawn import drawn_batches
from anomalib_lite.data.images import ImageSet
from anomalib_lite.detectors.model import Model
from anomalib_lite.errors import UserError
from anomalib_lite.metrics import ImageMetrics, PixelMetrics

DRAWN = 160  # copies with a defect
BATCH = 16
FIGURES = ("image_auroc", "pixel_auroc", "aupro")


def hold_back(val: ImageSet) -> tuple[ImageSet, ImageSet]:
    """The held-out OK images in two halves: for the threshold, and for the validation.

    A threshold promises a false-alarm rate on images that nothing was chosen by; so those that settings are chosen by
    do not set it.
    """
    if len(val) < 4:
        raise UserError(
            f"validate=true needs at least 4 held-out OK images, half of them for the threshold, and there are "
            f"{len(val)}: hold out more (data.val_share), or leave validate=false."
        )
    return val.part(slice(0, None, 2)), val.part(slice(1, None, 2))


def validate(detector: Model, images: ImageSet, aupro_limit: float) -> dict[str, Any]:
    """Image AUROC, pixel AUROC, AUPRO and their mean on OK images and copies of them with drawn defects.

    The same images get the same defects whatever the detector and its batches are, so that runs compare.
    """
    by_image, by_pixel = ImageMetrics(), PixelMetrics(limit=aupro_limit)
    batches = drawn_batches(images, range(len(images)), DRAWN, np.random.default_rng(0), BATCH)
    total = -(-(len(images) + DRAWN) // BATCH)
    for batch in tqdm(batches, "validate", total, delay=2, leave=False):
        prediction = detector.predict_batch(batch)
        labels = batch.label.tolist()
        by_image.update(prediction.score.float().cpu(), labels)
        by_pixel.update(prediction.map.float().cpu(), batch.mask, labels)
    whole, maps = by_image.compute(), by_pixel.compute()
    values = {name: (whole.values | maps.values)[name] for name in FIGURES}
    known = [value for value in values.values() if value is not None]
    mean = sum(known) / len(FIGURES) if len(known) == len(FIGURES) else None
    counts = {"ok_images": len(images), "drawn": DRAWN}
    return {**values, "mean": mean, **counts}
