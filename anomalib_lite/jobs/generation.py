"""Generated images as files: a generator trained once, its images drawn, guarded and measured once."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from anomalib_lite.data.decode import read_image
from anomalib_lite.data.sample import Sample
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Generator
from anomalib_lite.generators.drawing import Drawing, Drawn, start_drawing
from anomalib_lite.generators.loss_log import LossLog
from anomalib_lite.jobs.generation_report import KEPT_DROPS, REPORT, write_generation_report
from anomalib_lite.runs.artifacts import artifact, artifact_key
from anomalib_lite.runs.images import write_image
from anomalib_lite.runs.tracking import Findings, Tracker

log = logging.getLogger(__name__)

VERSION = 2  # raise it when the same generator gives other files
# what the drawing of images depends on, beside the generator itself
DRAWING = ("count", "seed", "structure_guard")
LOSSES = "losses.jsonl"


@dataclass(frozen=True)
class GeneratedSet:
    """folder: 0000.png and so on, and report/ with quality.json, images.csv, generated.html and contact_sheet.png."""

    folder: Path
    samples: list[Sample]

    @property
    def report(self) -> Path:
        return self.folder / REPORT

    @property
    def quality(self) -> dict[str, Any]:
        return json.loads((self.report / "quality.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Order:
    """What is asked for. quantile: of the structure guard, None where it is off. settings: of the generator itself."""

    count: int
    seed: int
    quantile: float | None
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.settings["_target_"]).rpartition(".")[2]


def generated_set(
    cfg: DictConfig,
    ok: Sequence[Sample],
    template: Path | None,
    data_hash: str,
    tracker: Tracker | None = None,
    anew: bool = False,
) -> GeneratedSet:
    """Trains the generator and draws its images where that has not been done for this data, template, configuration
    and seed; whoever asks for the same gets the same files.

    ok: the training images alone, never held-out or test ones. data_hash: fingerprint of the data they come from.
    anew: trains and draws although it has been done.
    """
    order = _read_order(cfg, ok)
    paths = [sample.image.absolute() for sample in ok]
    trained, fitted = _trained(cfg, order, paths, template, data_hash, tracker, anew)
    key = artifact_key(VERSION, trained.name, order.settings, order.count, order.quantile)
    folder = Path(cfg.paths.artifacts) / f"generated-{key}"

    def fill(unfinished: Path) -> None:
        _fill(unfinished, order, trained, paths)

    if not artifact(folder, fill, replace=anew or fitted):
        log.info("generated before: %s", folder)
    made = GeneratedSet(folder, list(_samples(folder, ok)))
    if tracker is not None:
        sheet = folder / REPORT / "contact_sheet.png"
        pictures = {"generated": [("real beside generated", read_image(sheet))]}
        tracker.log_result(Findings({"generated": made.quality}, pictures))
    return made


def trained_generator(
    cfg: DictConfig, ok: Sequence[Sample], template: Path | None, data_hash: str, tracker: Tracker | None = None
) -> tuple[Generator, str]:
    """The generator that draws the images of `generated_set`, and its artifact's name. Arguments as there."""
    order = _read_order(cfg, ok)
    folder, _ = _trained(cfg, order, [s.image.absolute() for s in ok], template, data_hash, tracker, False)
    generator = _build(order)
    generator.load(folder)
    return generator, folder.name


def _read_order(cfg: DictConfig, ok: Sequence[Sample]) -> Order:
    """Errors: UserError for what cannot be made."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg.generator, resolve=True)  # type: ignore[assignment]
    chosen = {key: settings.pop(key, None) for key in DRAWING}
    if not ok:
        raise UserError("A generator learns from OK training images, and there are none. See data.ok or data.root.")
    count = len(ok) if chosen["count"] is None else chosen["count"]
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(
            f"generator.count is a whole number, 1 or more, or null for as many as there are OK images, but is {count}."
            " generator=none makes no images."
        )
    guard = {"enabled": True, "quantile": 0.01} | (chosen["structure_guard"] or {})
    seed = cfg.seed if chosen["seed"] is None else chosen["seed"]
    return Order(count, seed, guard["quantile"] if guard["enabled"] else None, settings)


def _trained(
    cfg: DictConfig,
    order: Order,
    ok: Sequence[Path],
    template: Path | None,
    data_hash: str,
    tracker: Tracker | None,
    anew: bool,
) -> tuple[Path, bool]:
    """The folder of the trained generator, and whether it was trained just now."""
    golden = None if template is None else artifact_key(template.read_bytes().hex())
    after = get_class(order.settings["_target_"]).after_training
    settings = {key: value for key, value in order.settings.items() if key not in after}
    key = artifact_key(settings, data_hash, len(ok), golden, order.seed)
    folder = Path(cfg.paths.artifacts) / f"generator-{key}"

    def fit(unfinished: Path) -> None:
        log.info("training %s on %d OK images", order.name, len(ok))
        loggers: list[Any] = [LossLog(unfinished / LOSSES)]
        if tracker is not None and tracker.logger:
            loggers.append(tracker.logger)
        _build(order).fit(ok, template, unfinished, order.seed, loggers)

    made = artifact(folder, fit, resumable=True, replace=anew)
    if not made:
        log.info("%s was trained before: %s", order.name, folder)
    return folder, made


def _build(order: Order) -> Generator:
    return instantiate(order.settings)


def _fill(folder: Path, order: Order, trained: Path, ok: Sequence[Path]) -> None:
    generator = _build(order)
    generator.load(trained)
    drawing = start_drawing(generator, order.count, order.seed, ok, order.quantile)
    drawn = list(_written(folder, drawing, order.count))
    kept = sum(row["kept"] for row in drawn)
    if not kept:
        raise UserError(
            f"All {len(drawn)} images that {order.name} made have a damaged structure: their edge overlap with their "
            f"content images is {max(row['edge_overlap'] for row in drawn):.3f} at most, and "
            f"{drawing.guard.threshold if drawing.guard else 0:.3f} is asked for. Train longer, or look at them with "
            "generator.structure_guard.enabled=false."
        )
    if kept < order.count:
        log.warning(
            "%d images were asked for, and of %d drawn %d kept their structure: generator.structure_guard.quantile "
            "(%g) says how strict that is", order.count, len(drawn), kept, order.quantile,
        )  # fmt: skip
    write_generation_report(folder, order, drawing, drawn, ok, trained / LOSSES)


def _written(folder: Path, drawing: Drawing, count: int) -> Iterator[dict[str, Any]]:
    """Writes the images that are kept and the first dropped ones; a row of images.csv for each."""
    kept = dropped = 0
    bar = tqdm(total=count, desc="generate", unit="image", leave=False)
    (folder / REPORT / "dropped").mkdir(parents=True, exist_ok=True)
    for one in drawing.images:
        if one.kept:
            file = f"{kept:04d}.png"
            kept += 1
            bar.update()
        else:
            file = f"{REPORT}/dropped/{dropped:04d}.png" if dropped < KEPT_DROPS else ""
            dropped += 1
        if file:
            write_image(folder / file, one.made.image)
        bar.set_postfix(dropped=dropped)
        yield _row(file, one)
    bar.close()


def _row(file: str, one: Drawn) -> dict[str, Any]:
    return {
        "file": file,
        "content": one.content,
        "content_name": one.made.content.name,
        "origin": one.made.origin,
        "edge_overlap": one.overlap,
        "ssim": one.ssim,
        "kept": one.kept,
    }


def _samples(folder: Path, ok: Sequence[Sample]) -> Iterator[Sample]:
    with (folder / REPORT / "images.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["kept"] == "1":
                content = ok[int(row["content"])]
                yield replace(content, image=folder / row["file"], mask=None, origin=row["origin"])
