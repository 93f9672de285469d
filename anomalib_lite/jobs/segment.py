"""anomalib-lite segment: find products in photographs of panels and cut them out."""

import csv
import logging
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from anomalib_lite.annotate.store import answers_in, set_aside
from anomalib_lite.data.decode import common_depth, read_image
from anomalib_lite.data.files import expand, output_names
from anomalib_lite.errors import Skipped, UserError
from anomalib_lite.jobs.app import app, texts
from anomalib_lite.registration.cropping import Product, crop, draw_overview, segment
from anomalib_lite.runs.atomic import atomic_path, write_csv, write_image
from anomalib_lite.settings.data import SegmentOptions

log = logging.getLogger(__name__)

HELP = """Finds the products in photographs of panels with one template, and cuts them out.

Writes crops/*.png, aligned to the template, so that all crops show the product at the same position; overview/*.jpg,
each panel with its boxes; and manifest.csv (panel, x, y, w, h, score, angle, scale, crop), which annotate reads.
Panels that cannot be used are listed and skipped; the exit status is then 3.

  anomalib-lite segment images=photos/ template=golden.png
  anomalib-lite segment images=photos/ template=photos/p01.png template_box=[120,340,512,512] panels.max_objects=12
  anomalib-lite segment images='line1/*.png' template=golden.png panels=any_angle output=line1_crops"""

COLUMNS = ("panel", "x", "y", "w", "h", "score", "angle", "scale", "crop")


@dataclass(frozen=True)
class Cut:
    """One product: its panel's file, its position there, and its crop's file relative to the output folder."""

    panel: Path
    found: Product
    crop: str


Cuts = dict[Path, list[Cut] | UserError]  # panel -> its products, or why it could not be used


@app("segment", HELP)
def main(cfg: DictConfig) -> None:
    options = SegmentOptions(**cfg.panels)
    paths = expand(texts(cfg.images), Path())
    panels = dict(zip(paths, output_names(paths), strict=True))
    bits = common_depth(paths, cfg.bits, "bits")
    template = read_template(Path(cfg.template), cfg.template_box, bits)
    output = Path(cfg.output)
    _remove_earlier(output, cfg.force)
    _conclude(cut_panels(panels, template, options, output, cfg.workers, bits), options, output / "manifest.csv")


def read_template(path: Path, box: Sequence[int] | None, bits: int | None = None) -> np.ndarray:
    """Reads the template (h, w, 3): the whole picture, or its box (x, y, width, height)."""
    if not path.is_file():
        raise UserError(f"The template does not exist: {path.absolute()}.")
    image = read_image(path, bits)
    if box is None:
        return image
    if len(box) != 4:
        raise UserError(f"template_box must be [x, y, width, height], not {list(box)}.")
    x, y, width, height = box
    if min(x, y) < 0 or min(width, height) < 1 or x + width > image.shape[1] or y + height > image.shape[0]:
        raise UserError(
            f"template_box {list(box)} (x, y, width, height) does not lie within {path.name}, which has "
            f"{image.shape[1]} x {image.shape[0]} pixels."
        )
    return np.ascontiguousarray(image[y : y + height, x : x + width])


def cut_panels(
    panels: Mapping[Path, str],
    template: np.ndarray,
    options: SegmentOptions,
    output: Path,
    workers: int | None,
    bits: int | None = None,
) -> Cuts:
    """Writes crops and overviews of all panels, `workers` at a time (None: one per core).

    panels: file of the panel -> base name of its crops. bits: see `read_image`.
    """

    def work(panel: Path) -> list[Cut] | UserError:
        try:
            return _cut_panel(read_image(panel, bits), panel, panels[panel], template, options, output)
        except UserError as error:
            return error

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = tqdm(pool.map(work, panels), "segment", len(panels), unit="panel", leave=False)
        return dict(zip(panels, results, strict=True))


def write_manifest(path: Path, cuts: Iterable[Cut]) -> None:
    """Writes the table of the crops and their positions."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for panel, found, name in ((cut.panel.as_posix(), cut.found, cut.crop) for cut in cuts):
        box, pose = (f"{side:.2f}" for side in found.box), (f"{found.angle:.3f}", f"{found.scale:.4f}")
        rows.append((panel, *box, f"{found.score:.4f}", *pose, name))
    write_csv(path, rows)


def _cut_panel(
    image: np.ndarray, panel: Path, name: str, template: np.ndarray, options: SegmentOptions, output: Path
) -> list[Cut]:
    products = segment(image, template, options)
    cuts = [Cut(panel, product, f"crops/{name}_{number:02d}.png") for number, product in enumerate(products)]
    overview = output / "overview" / f"{name}.jpg"
    pictures = {output / cut.crop: crop(image, cut.found) for cut in cuts}
    for path, picture in (pictures | {overview: draw_overview(image, products)}).items():
        with atomic_path(path) as temporary:
            write_image(temporary, picture)
    return cuts


def _remove_earlier(output: Path, force: bool) -> None:
    """With `force`, renames earlier answers, so that they do not apply to other crops, and removes earlier crops.

    Raises UserError without `force` if there are any, and while `annotate` is running on them.
    """
    manifest, folders = output / "manifest.csv", (output, output / "crops")  # annotate accepts either
    earlier = [path for path in (manifest, *(old for folder in folders for old in answers_in(folder))) if path.exists()]
    if earlier and not force:
        raise UserError(
            f"{earlier[0].absolute()} already exists, and labels may belong to its crops. Choose another output=, or "
            "force=true to replace the crops; it keeps earlier labels under other names."
        )
    for folder in folders:
        if kept := set_aside(folder):
            log.warning("labels of the earlier crops are kept as %s", ", ".join(map(str, kept)))
    if not manifest.is_file():
        return
    with manifest.open(newline="", encoding="utf-8") as stream:
        crops = [row["crop"] for row in csv.DictReader(stream) if row.get("crop")]
    for name in crops:
        path = (output / name).resolve()
        if path.is_relative_to((output / "crops").resolve()):
            path.unlink(missing_ok=True)
    manifest.unlink()  # the last, so that a killed run is not taken for one that has not begun


def _conclude(results: Cuts, options: SegmentOptions, manifest: Path) -> None:
    skipped = [f"{panel}: {error}" for panel, error in results.items() if isinstance(error, UserError)]
    if len(skipped) == len(results):
        raise UserError("No panel could be used:\n  " + "\n  ".join(skipped))
    used = {panel: cuts for panel, cuts in results.items() if not isinstance(cuts, UserError)}
    products = [cut for cuts in used.values() for cut in cuts]
    if empty := [str(panel) for panel, cuts in used.items() if not cuts]:
        advice = (
            f"no product found in {len(empty)} of {len(results)} panels, the first is {empty[0]}: if they show "
            "products, look at overview/, use a sharper template of this product, lower panels.min_score "
            f"({options.min_score:g}), or widen panels.max_angle ({options.max_angle:g}) and the range of scales"
        )
        if not products:
            raise UserError("\n  ".join([f"Nothing was cut out: {advice}.", *skipped]))
        log.warning(advice)
    write_manifest(manifest, products)
    print(f"{len(products)} products in {len(used)} panels: {manifest}")
    print("Next:", shlex.join(["anomalib-lite", "annotate", f"crops={manifest}"]))
    if skipped:
        listed = "\n  ".join(skipped)
        raise Skipped(f"{len(skipped)} of {len(results)} panels could not be used and were skipped:\n  {listed}")
