"""The verb predict."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from anomalib_lite.data.decode import UnreadableImage, read_image
from anomalib_lite.data.files import expand, output_names
from anomalib_lite.data.fingerprint import known_data
from anomalib_lite.data.sample import Outcome, Sample
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app
from anomalib_lite.report.heatmap import overlay
from anomalib_lite.runs.atomic import atomic_path

if TYPE_CHECKING:
    from anomalib_lite.defects import DefectCollector
    from anomalib_lite.scoring import Threshold

log = logging.getLogger(__name__)

HELP = """Anomaly scores, maps and overlays for any images, by a trained run.

Writes predictions.csv (image, score, nok), defects.csv and defects.json (type, measures, severity), overlays/*.png
(heat map on one scale tied to the threshold, so that a good part looks calm), defects/*.png (outlines in their types'
colours) and maps/*.tiff (32-bit float) to the output folder. Images that cannot be read are named and skipped;
the exit status is then 3.

  anomalib-lite predict run=runs/default/... images=photos/
  anomalib-lite predict run=runs/default/... images='line1/**/*.png' output=checked maps=false"""


class SkippedImages(UserError):
    """All readable images were predicted; the others are named."""

    status = 3


@app("predict", HELP)
def main(cfg: DictConfig) -> None:
    from anomalib_lite.data.images import ImageSet, loader
    from anomalib_lite.jobs.defects import open_collector
    from anomalib_lite.jobs.inference import device_of, golden_template, image_size, load_model, run_over

    source, trained, detector, threshold = load_model(cfg.run)
    paths = expand(OmegaConf.to_container(cfg.images) if OmegaConf.is_list(cfg.images) else cfg.images, Path())
    readable, broken = _readable(paths)
    template = Path(cfg.template).expanduser() if cfg.template else golden_template(source)
    bits = known_data(source).get("bits")
    images = ImageSet(
        [Sample(p, None, template=template, bits=bits) for p in readable], image_size(trained), ram_limit_mb=0
    )
    output, names = Path(str(cfg.output)).expanduser(), output_names(readable)
    rows, book = [], open_collector(source, threshold)
    detector.to(device_of(trained))
    for batch, prediction in run_over(detector, loader(images, trained.batch_size), "predict"):
        for k, index in enumerate(batch.index.tolist()):
            score, map = float(prediction.score[k]), prediction.map[k, 0].numpy()
            rows.append((readable[index], score, threshold.nok(score)))
            if cfg.maps:
                _write_pixels(output / "maps" / f"{names[index]}.tiff", map)
            if cfg.overlays:
                _write_overlay(output / "overlays" / f"{names[index]}.png", readable[index], map, threshold)
            if book is not None:
                outcome = Outcome(images.samples[index], score, threshold.nok(score), map=map)
                _inspect(book, output / "defects" / f"{names[index]}.png", outcome, cfg.overlays)
    if book is not None:
        book.write(output)
    _write_table(output / "predictions.csv", rows)
    flagged = sum(nok for *_, nok in rows)
    log.info("%d images, %d above the threshold %.4g of %s", len(rows), flagged, threshold.image, source)
    log.info("%s", output / "predictions.csv")
    if broken:
        listed = "\n  ".join(broken)
        raise SkippedImages(f"{len(broken)} of {len(paths)} images could not be read and were skipped:\n  {listed}")


def _readable(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    def trouble(path: Path) -> str | None:
        try:
            read_image(path)
        except UnreadableImage as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(trouble, paths), "check images", len(paths), delay=2, leave=False))
    readable = [path for path, error in zip(paths, found, strict=True) if error is None]
    broken = [error for error in found if error is not None]
    if not readable:
        raise UserError("None of the images can be read:\n  " + "\n  ".join(broken))
    return readable, broken


def _write_overlay(path: Path, image: Path, map: np.ndarray, threshold: Threshold) -> None:
    """At the image's own resolution."""
    pixels = overlay(read_image(image), map, threshold.pixel)
    _write_pixels(path, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


def _inspect(book: DefectCollector, path: Path, outcome: Outcome, draw: bool) -> None:
    """Collects an image's defects; draws their outlines into a file where it has any."""
    from anomalib_lite.defects.drawing import draw_defects

    pixels = read_image(outcome.sample.image)
    found = book.add(replace(outcome, image=pixels)).defects
    if found and draw:
        outlined = draw_defects(pixels, found, book.inspector.settings.types)
        _write_pixels(path, cv2.cvtColor(outlined, cv2.COLOR_RGB2BGR))


def _write_pixels(path: Path, pixels: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), pixels):
            raise UserError(f"{path.absolute()} cannot be written: is the disk full?")


def _write_table(path: Path, rows: Sequence[tuple[Path, float, bool]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "score", "nok"])
        writer.writerows((image, repr(score), int(nok)) for image, score, nok in rows)


if __name__ == "__main__":
    main()
