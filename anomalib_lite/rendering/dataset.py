"""A whole data set of rendered products on disk, in the layout of MVTec AD."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.errors import UserError
from anomalib_lite.rendering.flaws import DEFECTS
from anomalib_lite.rendering.product import SEVERITIES, Product, draw_conditions, render_product, render_template
from anomalib_lite.rendering.streams import image_seed, stream
from anomalib_lite.runs.artifacts import artifact

VERSION = 4  # raise it when the same settings give other pixels, so that no older folder is reused


@dataclass(frozen=True)
class PanelsConfig:
    """What is rendered; the folder's name is a hash of these values."""

    size: int = 256
    seed: int = 0
    n_train: int = 200
    n_test_good: int = 60
    n_per_defect: int = 12
    severity: tuple[float, float] = SEVERITIES
    jitter: float = 1.0
    defects: tuple[str, ...] = tuple(DEFECTS)

    def __post_init__(self) -> None:
        unknown = set(self.defects) - set(DEFECTS)
        if unknown:
            raise UserError(f"Unknown defects {sorted(unknown)}. Choose from: {', '.join(DEFECTS)}.")
        if not 0 <= self.severity[0] <= self.severity[1] <= 1:
            raise UserError(f"The severity range must rise within 0 and 1, but is {list(self.severity)}.")
        if self.size < 32 or min(self.n_train, self.n_test_good, self.n_per_defect) < 0:
            raise UserError("Products are at least 32 pixels wide, and their numbers are not negative.")

    @property
    def key(self) -> str:
        text = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Job:
    split: str
    name: str
    number: int

    @property
    def file(self) -> str:
        return f"{self.split}/{self.name}/{self.number:03d}.png"


def write_dataset(artifacts: str | os.PathLike[str], config: PanelsConfig, workers: int | None = None) -> Path:
    """The folder of the data set, rendered if it is not below `artifacts` yet.

    Holds train/good, test/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png, template.png with its
    layout masks, and products.csv with the severity and pose of each product. A pixel depends on the seed and
    on the image's split, class and number alone: larger sets begin with the smaller ones. The folder appears
    when it is whole; a second process that needs it at the same time waits for it.
    """
    target = Path(artifacts) / f"panels-{config.key}"
    artifact(target, lambda folder: _render_into(folder, config, workers))
    return target


def _render_into(folder: Path, config: PanelsConfig, workers: int | None) -> None:
    _write_template(folder, config.size)
    jobs = [_Job("train", "good", i) for i in range(config.n_train)]
    jobs += [_Job("test", "good", i) for i in range(config.n_test_good)]
    jobs += [_Job("test", defect, i) for defect in config.defects for i in range(config.n_per_defect)]
    for job in jobs:
        (folder / job.file).parent.mkdir(parents=True, exist_ok=True)
        if job.name != "good":
            (folder / "ground_truth" / job.name).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        done = pool.map(lambda job: _render_one(folder, config, job), jobs)
        rows = list(tqdm(done, "rendering products", len(jobs), unit="image", leave=False))
    with open(folder / "products.csv", "w", newline="", encoding="utf-8") as stream_:
        writer = csv.DictWriter(stream_, rows[0].keys() if rows else ["file"])
        writer.writeheader()
        writer.writerows(rows)


def _render_one(folder: Path, config: PanelsConfig, job: _Job) -> dict[str, object]:
    seed = image_seed(config.seed, job.split, job.name, job.number)
    defect = None if job.name == "good" else job.name
    severity = None if defect is None else float(stream(seed, "severity").uniform(*config.severity))
    conditions = draw_conditions(seed, config.jitter)
    product = render_product(config.size, seed, defect, severity, conditions)
    save_image(folder / job.file, product.image)
    if defect is not None:
        save_image(folder / "ground_truth" / defect / f"{job.number:03d}_mask.png", product.mask)
    return {"file": job.file, "split": job.split, **truth_row(product)}


def truth_row(product: Product) -> dict[str, object]:
    """Defect, severity and pose as the columns of a table."""
    severity = "" if product.severity is None else f"{product.severity:.4f}"
    pose = {name: f"{value:.6f}" for name, value in asdict(product.pose).items()}
    return {"defect": product.defect or "good", "severity": severity, **pose}


def _write_template(folder: Path, size: int) -> None:
    template = render_template(size)
    save_image(folder / "template.png", template.image)
    for name in ("text", "structure", "edges"):
        save_image(folder / f"template_{name}.png", getattr(template, name))


def save_image(path: Path, image: np.ndarray) -> None:
    """An RGB picture (H, W, 3) uint8, or a mask (H, W) bool, as a PNG file."""
    pixels = image.astype(np.uint8) * 255 if image.dtype == bool else image[..., ::-1]
    if not cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3]):
        raise UserError(f"Cannot write {path}. Is the disk full, or the folder read-only?")
