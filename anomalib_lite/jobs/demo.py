"""anomalib-lite demo: render a labelled data set to try the verbs on."""

import json
import logging
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from anomalib_lite.annotate.crops import LABELS_NAME, mask_key
from anomalib_lite.annotate.store import NOK, OK, Answer, label_line
from anomalib_lite.data.decode import read_image, read_mask
from anomalib_lite.data.folder import COLUMNS, csv_line
from anomalib_lite.errors import UserError
from anomalib_lite.jobs.app import app
from anomalib_lite.jobs.segment import Cut, cut_panels, write_manifest
from anomalib_lite.registration.cropping import Product, crop
from anomalib_lite.rendering.product import VERSION, Placed, read_truth, write_sheets
from anomalib_lite.runs.artifacts import artifact
from anomalib_lite.runs.atomic import write_image, write_json, write_text
from anomalib_lite.settings.data import SegmentOptions, SheetConfig

log = logging.getLogger(__name__)

HELP = """Renders photographs of panels, cuts out their products as segment does, and labels the crops.

The renderer's ground truth replaces the person who labels. Writes panels/, template.png, the output of segment
(crops/, overview/, manifest.csv) and of annotate (labels.csv, masks/), so that you can try each step separately.
truth/ holds the masks of the whole panels and the position of every product. An existing demo is kept.

  anomalib-lite demo
  anomalib-lite demo output=hard sheet.angle=8 sheet.brightness=0.4
  anomalib-lite segment images=demo/panels template=demo/template.png
  anomalib-lite train data=folder data.manifest=demo/labels.csv data.template=demo/template.png"""

RECORD = "demo.json"
SAME = 0.33  # largest distance between centres of a found and its rendered product, as a share of a product's side


@app("demo", HELP)
def main(cfg: DictConfig) -> None:
    sheet, output = SheetConfig(**cfg.sheet), Path(cfg.output)
    settings = {"renderer": VERSION, "n_panels": cfg.n_panels, "seed": cfg.seed, "sheet": asdict(sheet)}
    if _is_there(output, settings, cfg.force):
        print(f"{output} is complete and was kept; force=true deletes it and renders it again.")
    else:

        def make(folder: Path) -> None:
            _fill(folder, output, sheet, cfg)
            write_json(folder / RECORD, settings)

        artifact(output, make, replace=cfg.force)
    values = ["data=folder", f"data.manifest={output / LABELS_NAME}", f"data.template={output / 'template.png'}"]
    print("Next:", shlex.join(["anomalib-lite", "train", *values]))


def _is_there(output: Path, settings: dict[str, object], force: bool) -> bool:
    """Whether the folder holds the same demo and should be kept; raises UserError if it holds anything else."""
    if not output.exists():
        return False
    record = output / RECORD
    if not record.is_file():
        raise UserError(f"{output.absolute()} already exists, and demo did not create it. Choose another output=.")
    if force:
        return False
    if json.loads(record.read_text(encoding="utf-8")) != settings:
        raise UserError(
            f"{output.absolute()} was made with other settings, listed in its {record.name}. Choose another output=, "
            "or force=true to delete it and render it again."
        )
    return True


def _fill(folder: Path, output: Path, sheet: SheetConfig, cfg: DictConfig) -> None:
    """Creates the demo in `folder`, which is renamed to `output` afterwards."""
    write_sheets(folder / "truth", cfg.n_panels, sheet, cfg.seed, cfg.workers or os.cpu_count() or 1)
    for name in ("panels", "template.png"):
        os.rename(folder / "truth" / name, folder / name)
    panels = {path: path.stem for path in sorted((folder / "panels").iterdir())}
    template = read_image(folder / "template.png")
    angle = max(SegmentOptions.max_angle, sheet.angle + 1)
    options = SegmentOptions(max_objects=sheet.rows * sheet.columns, max_angle=angle)
    cuts: list[Cut] = []
    for result in cut_panels(panels, template, options, folder, cfg.workers).values():
        if isinstance(result, UserError):
            raise result
        cuts += result
    moved = [replace(cut, panel=output / cut.panel.relative_to(folder)) for cut in cuts]
    write_manifest(folder / "manifest.csv", moved)
    _label(folder, list(panels), cuts)


def _label(folder: Path, panels: list[Path], cuts: list[Cut]) -> None:
    truth = read_truth(folder / "truth" / "truth.json")
    answers: list[Answer] = []
    lines = [csv_line(*COLUMNS)]
    for panel in panels:
        panel_cuts = [cut for cut in cuts if cut.panel == panel]
        placed = truth[panel.relative_to(folder).as_posix()]
        mask = read_mask(folder / "truth" / "masks" / panel.name)
        for cut, product in zip(panel_cuts, match_truth([cut.found for cut in panel_cuts], placed), strict=True):
            if product is None:
                log.warning("%s shows no product: it is in the manifest, but has no label", cut.crop)
                continue
            answers.append(Answer(NOK, product.defect) if product.defect else Answer(OK))
            if product.defect:
                write_image(folder / mask_key(cut.crop), crop_mask(mask, cut.found))
            lines.append(label_line(cut.crop, answers[-1], mask_key(cut.crop)))
    write_text(folder / LABELS_NAME, "".join(lines))
    print(f"{len(answers)} of {sum(map(len, truth.values()))} products found in {len(panels)} panels.")
    counts = Counter(answer.defect for answer in answers)
    ok = counts.pop(None, 0)
    types = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    print(f"{ok} OK, {counts.total()} NOK" + (f": {types}." if types else "."))


def match_truth(found: Sequence[Product], placed: Sequence[Placed]) -> list[Placed | None]:
    """Returns the rendered product that each found one shows, or None; no product is matched twice."""
    matches: list[Placed | None] = [None] * len(found)
    for product in placed if found else ():
        distances = [float(np.hypot(*(one.corners - product.corners).mean(0))) for one in found]
        nearest = int(np.argmin(distances))  # rendered products do not overlap, so no match is overwritten
        if distances[nearest] < SAME * np.hypot(*(product.corners[1] - product.corners[0])):
            matches[nearest] = product
    return matches


def crop_mask(mask: np.ndarray, found: Product) -> np.ndarray:
    """Cuts a panel's mask, bool (H, W), as the product's picture is cut: bool (h, w).

    A pixel is marked if at least half of it is; if the defect is too fine for that, every pixel that it touches is.
    """
    share = crop(mask.astype(np.float32), found)
    return share >= 0.5 if (share >= 0.5).any() else share > 0
