"""Trains generators and draws their images; both are artifacts, made once and shared by runs."""

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate
from tqdm import tqdm

from anomalib_lite.data.decode import read_image
from anomalib_lite.data.sample import OK, Origin, Sample
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Drawing, Generator, LossLog, read_losses
from anomalib_lite.generators.quality import measure
from anomalib_lite.runs.artifacts import artifact, artifact_key, content_hash
from anomalib_lite.runs.atomic import write_image
from anomalib_lite.runs.tracking import Findings, Tracker

log = logging.getLogger(__name__)

VERSION = 3  # to be raised when the same generator would give different files
LOSSES = "losses.jsonl"
REPORT = "report"
KEPT_DROPS = 24  # dropped images that are saved for inspection


@dataclass(frozen=True)
class Order:
    """A generator, and which images to draw from it."""

    generator: Generator  # trained or loaded in place
    settings: Mapping[str, Any]  # its configuration, JSON-ready; its artifacts are named by a hash of it
    seed: int  # of the training and of the images
    count: int | None  # number of images; None: as many as there are OK training images
    quantile: float | None  # of the structure guard; None: no guard

    @property
    def name(self) -> str:
        return type(self.generator).__name__


@dataclass(frozen=True)
class GeneratedSet:
    """Generated images: the folder holds 0000.png, ... and report/ (quality, images.csv, page, contact sheet)."""

    folder: Path
    samples: list[Sample]

    @property
    def report(self) -> Path:
        return self.folder / REPORT

    @property
    def quality(self) -> dict[str, Any]:
        return json.loads((self.report / "quality.json").read_text(encoding="utf-8"))


def read_order(settings: Mapping[str, Any], seed: int) -> Order:
    """Builds the order from the resolved configuration group `generator`; `seed` is used if the group sets none."""
    target = dict(settings)
    count, group_seed, guard = (target.pop(key, None) for key in ("count", "seed", "structure_guard"))
    guard = {"enabled": True, "quantile": 0.01} | (guard or {})
    quantile = guard["quantile"] if guard["enabled"] else None
    return Order(instantiate(target), target, seed if group_seed is None else group_seed, count, quantile)


def train_generator(
    order: Order,
    ok: Sequence[Sample],
    template: Path | None,
    data_hash: str,
    artifacts: Path,
    tracker: Tracker | None = None,
    retrain: bool = False,
) -> tuple[Path, bool]:
    """Trains the generator, unless it was trained before with this data, template, settings and seed, or to `retrain`.

    ok: the training images. template: the golden image in their colours, or None. data_hash: of the data that they come
    from. Returns the folder of the trained generator, and whether it was trained just now.
    """
    if not ok:
        raise UserError("A generator needs OK training images, but there are none. Check data.ok or data.root.")
    settings = {key: value for key, value in order.settings.items() if key not in order.generator.after_training}
    content = None if template is None else content_hash(template)
    folder = artifacts / f"generator-{artifact_key(settings, data_hash, len(ok), content, order.seed)}"
    golden = None if template is None else Sample(template, OK, bits=ok[0].bits)

    def fit(unfinished: Path) -> None:
        log.info("training %s on %d OK images", order.name, len(ok))
        loggers: list[Any] = [LossLog(unfinished / LOSSES)]
        if tracker is not None and tracker.logger:
            loggers.append(tracker.logger)
        order.generator.fit(ok, golden, unfinished, order.seed, loggers)

    trained = artifact(folder, fit, resumable=True, replace=retrain)
    if not trained:
        log.info("using the %s trained by an earlier run: %s", order.name, folder)
    return folder, trained


def generated_set(
    order: Order,
    ok: Sequence[Sample],
    template: Path | None,
    data_hash: str,
    artifacts: Path,
    tracker: Tracker | None = None,
    retrain: bool = False,
) -> GeneratedSet:
    """Draws and measures images of the trained generator, unless the artifact exists; see `train_generator`."""
    trained, fitted = train_generator(order, ok, template, data_hash, artifacts, tracker, retrain)
    count = len(ok) if order.count is None else order.count
    key = artifact_key(VERSION, trained.name, order.settings, count, order.quantile)
    folder = artifacts / f"generated-{key}"

    def fill(unfinished: Path) -> None:
        order.generator.load(trained)
        _fill(unfinished, order, count, ok, trained / LOSSES)

    if not artifact(folder, fill, replace=retrain or fitted):
        log.info("using images generated earlier: %s", folder)
    images = GeneratedSet(folder, list(_samples(folder, ok)))
    if tracker is not None:
        sheet = read_image(images.report / "contact_sheet.png")
        tracker.log_result(Findings({"generated": images.quality}, {"generated": [("real beside generated", sheet)]}))
    return images


def _fill(folder: Path, order: Order, count: int, ok: Sequence[Sample], losses: Path) -> None:
    """Draws and writes the images, their quality and their report. losses: file of a LossLog, which may be missing."""
    drawing = Drawing(order.generator, count, order.seed, ok, order.quantile)
    drawn = list(_written(folder, drawing, count, ok))
    kept = [row for row in drawn if row["kept"]]
    if not kept:
        raise UserError(
            f"All {len(drawn)} images that {order.name} generated have a damaged structure: their edge overlap with "
            f"their content images is at most {max(row['edge_overlap'] for row in drawn):.3f}, but at least "
            f"{drawing.guard.threshold if drawing.guard else 0:.3f} is required. Train longer, or inspect the images "
            "with generator.structure_guard.enabled=false."
        )
    if len(kept) < count:
        log.warning(
            "%d images were requested, but only %d of %d drawn images have an intact structure: lower "
            "generator.structure_guard.quantile (%g) to keep more", count, len(kept), len(drawn), order.quantile,
        )  # fmt: skip
    structure = {name: [row[name] for row in kept] for name in ("edge_overlap", "ssim")}
    quality = measure(ok, [Sample(folder / row["file"], OK) for row in kept], drawing.size, structure, order.seed)
    quality["drawn"] = {"all": len(drawn), "kept": len(kept), "dropped": len(drawn) - len(kept), "asked": count}
    quality["guard"] = None if drawing.guard is None else vars(drawing.guard)
    import pandas as pd  # importing it takes half a second, the report's module a second

    from anomalib_lite.report.generated import write_generated_report

    table = pd.DataFrame(drawn).astype({"kept": int})
    table.to_csv(folder / REPORT / "images.csv", index=False, float_format="%.6g")
    write_generated_report(
        folder / REPORT, f"Images generated by {order.name}", quality, drawn, ok, read_losses(losses), order.settings
    )


def _written(folder: Path, drawing: Drawing, count: int, ok: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """Writes the kept images and the first dropped ones; yields a row of images.csv for each drawn image."""
    kept = dropped = 0
    (folder / REPORT / "dropped").mkdir(parents=True, exist_ok=True)
    with tqdm(total=count, desc="generate", unit="image", leave=False) as bar:
        for one in drawing:
            file = f"{kept:04d}.png" if one.kept else f"{REPORT}/dropped/{dropped:04d}.png"
            file = file if one.kept or dropped < KEPT_DROPS else ""
            kept, dropped = kept + one.kept, dropped + (not one.kept)
            if file:
                write_image(folder / file, one.made.image)
            bar.update(one.kept)
            bar.set_postfix(dropped=dropped)
            yield {
                "file": file, "content": one.made.content, "content_name": ok[one.made.content].image.name,
                "origin": one.made.origin, "edge_overlap": one.overlap, "ssim": one.ssim, "kept": one.kept,
            }  # fmt: skip


def _samples(folder: Path, ok: Sequence[Sample]) -> Iterator[Sample]:
    with (folder / REPORT / "images.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["kept"] == "1":
                content = ok[int(row["content"])]
                yield replace(content, image=folder / row["file"], mask=None, origin=cast("Origin", row["origin"]))
