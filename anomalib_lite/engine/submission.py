"""Maps and masks of MVTec AD 2's private test images, for its evaluation server (Heckler-Kram et al., 2025)."""

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
    """Returns the object that a run was trained on. Raises UserError if MVTec AD 2 has no such object."""
    category = (trained.run.config.get("data") or {}).get("category")
    if category not in OBJECTS:
        trained_on = f"was trained on {category!r}" if category else "was not trained on one category"
        raise UserError(f"{trained.run.path} {trained_on}; the objects of MVTec AD 2 are {', '.join(OBJECTS)}.")
    return str(category)


def write_object(trained: TrainedRun, root: Path, output: Path) -> int:
    """Writes maps (float16 TIFF) and masks (PNG of 0 and 255) of one object's images at full size; returns how many.

    A mask marks the pixels above the run's pixel threshold, which was set on held-out OK images.
    """
    name, count = object_of(trained), 0
    for split in SPLITS:
        folder = require_folder(root / name / split, f"The split {split} of {name}", "root")
        paths = iter(list_images(folder))
        while batch := [trained.open(path) for path in islice(paths, trained.at_once)]:
            for judged in trained.answers(batch):
                picture, anomaly_map = judged.outcome.image, judged.outcome.map
                assert picture is not None and anomaly_map is not None
                resized = cv2.resize(anomaly_map, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
                file = Path(name) / split / judged.outcome.sample.image.stem
                with atomic_path(output / MAPS / file.with_suffix(".tiff")) as temporary:
                    tifffile.imwrite(temporary, resized.clip(max=np.finfo(np.float16).max).astype(np.float16))
                with atomic_path(output / MASKS / file.with_suffix(".png")) as temporary:
                    write_image(temporary, resized > trained.threshold.pixel)
                count += 1
        log.info("%s, %s: %d images so far", name, split, count)
    return count


def pack(output: Path) -> Path:
    """Packs all objects into the archive to upload; warns of missing objects, as the server refuses such archives."""
    missing = [name for name in OBJECTS if not (output / MAPS / name).is_dir()]
    if missing:
        log.warning("the server needs all objects, but these are missing: %s", ", ".join(missing))
    with atomic_path(output / "submission.tar.gz") as temporary, tarfile.open(temporary, "w:gz") as archive:
        for folder in (MAPS, MASKS):
            archive.add(output / folder, folder)
    return output / "submission.tar.gz"
