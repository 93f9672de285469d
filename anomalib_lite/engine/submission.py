"""Files for the evaluation server of MVTec AD 2 (Heckler-Kram et al., 2025): maps and masks of its private tests."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile

from anomalib_lite.data.decode import read_image
from anomalib_lite.data.files import list_images, require_folder
from anomalib_lite.data.images import ImageSet, content, loader
from anomalib_lite.data.sample import Sample
from anomalib_lite.engine.evaluate import run_over
from anomalib_lite.engine.predict import TrainedRun
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path

log = logging.getLogger(__name__)

OBJECTS = ("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts")
SPLITS = ("test_private", "test_private_mixed")
MAPS, MASKS = "anomaly_images", "anomaly_images_thresholded"
LARGEST = float(np.finfo(np.float16).max)


def object_of(trained: TrainedRun) -> str:
    """The object that a run learned. Errors: UserError where that is none of the data set's."""
    category = (trained.run.config.get("data") or {}).get("category")
    if category not in OBJECTS:
        raise UserError(f"{trained.run.path} learned {category!r}, which is no object of MVTec AD 2: {OBJECTS}.")
    return str(category)


def write_object(trained: TrainedRun, root: Path, output: Path, splits: Sequence[str] = SPLITS) -> int:
    """Maps (float16 TIFF) and masks (PNG of 0 and 255) of one object's images, at their own size; returns how many.

    A pixel is anomalous above the run's pixel threshold, which comes from held-out OK images.
    """
    name = object_of(trained)
    count = 0
    for split in splits:
        folder = require_folder(root / name / split, f"The split {split} of {name}")
        samples, judge = [Sample(path, None) for path in list_images(folder)], trained.judge
        images = ImageSet(samples, judge.size, ram_limit_mb=0, resize=judge.resize)
        batches = loader(images, trained.model.at_once(judge.batch_size))
        for batch, prediction in run_over(trained.model, batches, f"{name} {split}"):
            for k, (sample, map) in enumerate(zip(batch.samples, prediction.map[:, 0].numpy(), strict=True)):
                if batch.inside is not None:
                    map = np.ascontiguousarray(map[content(batch.inside[k])])
                height, width = read_image(sample.image).shape[:2]
                whole = cv2.resize(map, (width, height), interpolation=cv2.INTER_LINEAR)
                place = Path(name) / split / sample.image.stem
                with atomic_path(output / MAPS / place.with_suffix(".tiff")) as temporary:
                    tifffile.imwrite(temporary, whole.clip(max=LARGEST).astype(np.float16))
                with atomic_path(output / MASKS / place.with_suffix(".png")) as temporary:
                    cv2.imwrite(str(temporary), np.uint8(255) * (whole > trained.threshold.pixel).astype(np.uint8))
                count += 1
    return count


def pack(output: Path) -> Path:
    """All that is there as the archive to upload; says which objects are missing, without which it is refused."""
    missing = [name for name in OBJECTS if not (output / MAPS / name).is_dir()]
    if missing:
        log.warning("the server wants all objects, and these are missing: %s", ", ".join(missing))
    with atomic_path(output / "submission.tar.gz") as temporary, tarfile.open(temporary, "w:gz") as archive:
        for folder in (MAPS, MASKS):
            archive.add(output / folder, folder)
    return output / "submission.tar.gz"
