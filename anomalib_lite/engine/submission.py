"""Files for the evaluation server of MVTec AD 2 (Heckler-Kram et al., 2025): maps and masks of its private tests."""

import logging
import tarfile
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import tifffile

from anomalib_lite.data.files import list_images, require_folder
from anomalib_lite.engine.predict import TrainedRun
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path, write_image

log = logging.getLogger(__name__)

OBJECTS = ("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts")
SPLITS = ("test_private", "test_private_mixed")
MAPS, MASKS = "anomaly_images", "anomaly_images_thresholded"


def object_of(trained: TrainedRun) -> str:
    """The object that a run learned. Errors: UserError where that is none of the data set's."""
    category = (trained.run.config.get("data") or {}).get("category")
    if category not in OBJECTS:
        learned = f"learned {category!r}" if category else "did not learn one category"
        raise UserError(f"{trained.run.path} {learned}; MVTec AD 2 has {', '.join(OBJECTS)}.")
    return str(category)


def write_object(trained: TrainedRun, root: Path, output: Path) -> int:
    """Maps (float16 TIFF) and masks (PNG of 0 and 255) of one object's images, at their own size; returns how many.

    A pixel is anomalous above the run's pixel threshold, which comes from held-out OK images.
    """
    name, count = object_of(trained), 0
    for split in SPLITS:
        folder = require_folder(root / name / split, f"The split {split} of {name}", "root")
        paths = iter(list_images(folder))
        while batch := [trained.open(path) for path in islice(paths, trained.at_once)]:
            for judged in trained.answers(batch):
                picture, map = judged.outcome.image, judged.outcome.map
                assert picture is not None and map is not None
                whole = cv2.resize(map, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
                place = Path(name) / split / judged.outcome.sample.image.stem
                with atomic_path(output / MAPS / place.with_suffix(".tiff")) as temporary:
                    tifffile.imwrite(temporary, whole.clip(max=np.finfo(np.float16).max).astype(np.float16))
                with atomic_path(output / MASKS / place.with_suffix(".png")) as temporary:
                    write_image(temporary, whole > trained.threshold.pixel)
                count += 1
        log.info("%s, %s: %d images in all so far", name, split, count)
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
