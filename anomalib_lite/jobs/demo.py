"""The verb demo."""

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
from anomalib_lite.rendering.product import VERSION
from anomalib_lite.rendering.sheet import Placed, read_truth, write_sheets
from anomalib_lite.runs.artifacts import artifact
from anomalib_lite.runs.atomic import write_image, write_json, write_text
from anomalib_lite.settings.data import SegmentOptions, SheetConfig

log = logging.getLogger(__name__)

HELP = """Renders photographs of panels, finds and cuts their products as segment does, and labels the crops.

The renderer's truth stands in for the person who labels. Writes panels/, template.png, what segment writes (crops/,
overview/, manifest.csv), and what annotate writes (labels.csv, masks/), so that each step can be tried by itself.
truth/ holds the masks of the whole panels, and where every product lies. A demo that is there is kept.

  anomalib-lite demo
  anomalib-lite demo output=hard sheet.angle=8 sheet.brightness=0.4
  anomalib-lite segment images=demo/panels template=demo/template.png
  anomalib-lite train data=folder data.manifest=demo/labels.csv data.template=demo/template.png"""

RECORD = "demo.json"
SAME = 0.33  # of a product's side, within which a found product's centre is that of a drawn one


@app("demo", HELP)
def main(cfg: DictConfig) -> None:
    sheet, output = SheetConfig(**cfg.sheet), Path(cfg.output)
    settings = {"renderer": VERSION, "n_panels": cfg.n_panels, "seed": cfg.seed, "sheet": asdict(sheet)}
    if _is_there(output, settings, cfg.force):
        print(f"{output} is whole and is kept; force=true deletes it and makes it anew.")
    else:

        def make(folder: Path) -> None:
            _fill(folder, output, sheet, cfg)
            write_json(folder / RECORD, settings)

        artifact(output, make, replace=cfg.force)
    values = ["data=folder", f"data.manifest={output / LABELS_NAME}", f"data.template={output / 'template.png'}"]
    print("Next:", shlex.join(["anomalib-lite", "train", *values]))


def _is_there(output: Path, settings: dict[str, object], force: bool) -> bool:
    """Whether the folder holds this very demo, and is to stay. Errors: UserError where it holds something else."""
    if not output.exists():
        return False
    record = output / RECORD
    if not record.is_file():
        raise UserError(f"{output.absolute()} is there already, and demo has not made it. Choose another output=.")
    if force:
        return False
    if json.loads(record.read_text(encoding="utf-8")) != settings:
        raise UserError(
            f"{output.absolute()} was made with other settings: {record.name} in it has them. Choose another output=, "
            "or force=true to delete it and make it anew."
        )
    return True


def _fill(folder: Path, output: Path, sheet: SheetConfig, cfg: DictConfig) -> None:
    """Makes the demo in `folder`, which will become `output`."""
    write_sheets(folder / "truth", cfg.n_panels, sheet, cfg.seed, cfg.workers or os.cpu_count() or 1)
    for name in ("panels", "template.png"):
        os.rename(folder / "truth" / name, folder / name)
    panels = {path: path.stem for path in sorted((folder / "panels").iterdir())}
    template = read_image(folder / "template.png")
    options = SegmentOptions(
        max_objects=sheet.rows * sheet.columns, max_angle=max(SegmentOptions.max_angle, sheet.angle + 1)
    )
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
        own = [cut for cut in cuts if cut.panel == panel]
        placed = truth[panel.relative_to(folder).as_posix()]
        mask = read_mask(folder / "truth" / "masks" / panel.name)
        for cut, product in zip(own, match_truth([cut.found for cut in own], placed), strict=True):
            if product is None:
                log.warning("%s shows no product: it is in the manifest, and has no label", cut.crop)
                continue
            answers.append(Answer(NOK, product.defect) if product.defect else Answer(OK))
            if product.defect:
                write_image(folder / mask_key(cut.crop), crop_mask(mask, cut.found))
            lines.append(label_line(cut.crop, answers[-1], mask_key(cut.crop)))
    write_text(folder / LABELS_NAME, "".join(lines))
    _report(answers, sum(map(len, truth.values())), len(panels))


def _report(answers: list[Answer], placed: int, panels: int) -> None:
    counts = Counter(answer.defect for answer in answers)
    ok = counts.pop(None, 0)
    print(f"{len(answers)} of {placed} products found in {panels} panels.")
    types = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    print(f"{ok} OK, {counts.total()} NOK" + (f": {types}." if types else "."))


def match_truth(found: Sequence[Product], placed: Sequence[Placed]) -> list[Placed | None]:
    """Which drawn product each found one is, None for one that is none; no product is taken twice."""
    same: list[Placed | None] = [None] * len(found)
    for product in placed if found else ():
        apart = [float(np.hypot(*(one.corners - product.corners).mean(0))) for one in found]
        nearest = int(np.argmin(apart))  # those drawn lie apart: none of them takes another one's place
        if apart[nearest] < SAME * np.hypot(*(product.corners[1] - product.corners[0])):
            same[nearest] = product
    return same


def crop_mask(mask: np.ndarray, found: Product) -> np.ndarray:
    """A panel's mask (H, W) bool, cut as the product's picture is: bool (h, w), where at least half is marked.

    A mark too fine for that keeps every pixel that it touches.
    """
    share = crop(mask.astype(np.float32), found)
    return share >= 0.5 if (share >= 0.5).any() else share > 0
