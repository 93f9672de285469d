"""anomalib-lite submit: write maps and masks for the evaluation server of MVTec AD 2 (Heckler-Kram et al., 2025)."""

from __future__ import annotations

import logging
import tarfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from omegaconf import DictConfig

from anomalib_lite.comparison.runs import find_runs
from anomalib_lite.data.files import list_images, require_folder
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app, say, texts
from anomalib_lite.runs.atomic import atomic_path, write_image

if TYPE_CHECKING:
    from anomalib_lite.engine.predict import TrainedRun

log = logging.getLogger(__name__)

HELP = """Writes a submission for the evaluation server of MVTec AD 2, with one trained run per object.

Judges the private test images, writes <output>/anomaly_images (float16 TIFF at the images' full size) and
anomaly_images_thresholded (PNG of 0 and 255, by each run's pixel threshold), and packs both into submission.tar.gz.

  anomalib-lite train -m data=mvtec_ad_2 data.root=DIR data.category=can,fabric      and the other objects
  anomalib-lite submit runs=runs/default root=DIR"""


OBJECTS = ("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts")
SPLITS = ("test_private", "test_private_mixed")
MAPS, MASKS = "anomaly_images", "anomaly_images_thresholded"


@app("submit", HELP)
def main(cfg: DictConfig) -> None:
    from anomalib_lite.engine.predict import open_run  # importing torch takes seconds

    root, output = Path(cfg.root), Path(cfg.output)
    trained: dict[str, TrainedRun] = {}
    for folder in find_runs(texts(cfg.runs)):
        run = open_run(folder, texts(cfg.trust))
        if (other := trained.get(name := _object_of(run))) is not None:
            raise UserError(f"Two runs are of {name}: {other.path} and {folder}. Name only one of them.")
        trained[name] = run
    for name, run in trained.items():
        count = sum(_write_split(run, name, split, root, output) for split in SPLITS)
        say(f"{name}: {count} images judged by {run.path}")
    if missing := [name for name in OBJECTS if not (output / MAPS / name).is_dir()]:
        log.warning("the server needs all objects, but these are missing: %s", ", ".join(missing))
    with atomic_path(output / "submission.tar.gz") as temporary, tarfile.open(temporary, "w:gz") as archive:
        for kind in (MAPS, MASKS):
            archive.add(output / kind, kind)
    say(output / "submission.tar.gz")


def _object_of(trained: TrainedRun) -> str:
    """Returns the object that a run was trained on. Raises UserError if MVTec AD 2 has no such object."""
    category = (trained.run.config.get("data") or {}).get("category")
    if category not in OBJECTS:
        trained_on = f"was trained on {category!r}" if category else "was not trained on one category"
        raise UserError(f"{trained.path} {trained_on}; the objects of MVTec AD 2 are {', '.join(OBJECTS)}.")
    return str(category)


def _write_split(trained: TrainedRun, name: str, split: str, root: Path, output: Path) -> int:
    """Writes maps (float16 TIFF) and masks (PNG of 0 and 255) of one object's images at full size; returns how many.

    A mask marks the pixels above the run's pixel threshold, which was set on held-out OK images.
    """
    import tifffile

    images = list_images(require_folder(root / name / split, f"The split {split} of {name}", "root"))
    paths = iter(images)
    while batch := [trained.open(path) for path in islice(paths, trained.at_once)]:
        for judged in trained.answers(batch):
            picture, anomaly_map = judged.outcome.image, judged.outcome.map
            assert picture is not None and anomaly_map is not None
            resized = cv2.resize(anomaly_map, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            stem = judged.outcome.sample.image.stem
            with atomic_path(output / MAPS / name / split / f"{stem}.tiff") as temporary:
                tifffile.imwrite(temporary, resized.clip(max=np.finfo(np.float16).max).astype(np.float16))
            with atomic_path(output / MASKS / name / split / f"{stem}.png") as temporary:
                write_image(temporary, resized > trained.threshold.pixel)
    log.info("%s, %s: %d images", name, split, len(images))
    return len(images)
