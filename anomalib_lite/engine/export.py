"""Exports a trained run as one file for other programs, and checks that it reproduces the run's results."""

import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from tqdm import tqdm

from anomalib_lite import __version__
from anomalib_lite.augment.synthetic import drawn_batches
from anomalib_lite.data.decode import read_sample
from anomalib_lite.data.images import loader, to_pixels
from anomalib_lite.data.sample import Outcome, Sample, Splits
from anomalib_lite.data.splits import check_same_data
from anomalib_lite.detectors.model import Batches
from anomalib_lite.engine.build import SHARED, build_data, threshold_rule
from anomalib_lite.engine.evaluate import INSPECTOR, Measured, find_threshold
from anomalib_lite.engine.predict import TrainedRun
from anomalib_lite.errors import UserError
from anomalib_lite.export.graph import FORMATS, Deployed, write_graph
from anomalib_lite.export.quantise import quantise, quantise_learned
from anomalib_lite.export.session import Exported, encode_region
from anomalib_lite.runs.atomic import PART
from anomalib_lite.runs.folder import TEMPLATE, refuse_run

log = logging.getLogger(__name__)
EXAMPLES = Path(__file__).resolve().parents[1] / "export" / "examples"
ROUNDING = 1e-4  # a score this near to the threshold, relatively, may change its verdict by rounding
TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "int8": 1.0}  # largest allowed difference of maps and scores
FALL = {"fp32": 0.0005, "fp16": 0.002, "int8": 0.01}  # largest allowed decrease of an AUROC
AUROCS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC"}
T = TypeVar("T")
CALIBRATION = 64  # training images that int8 measures activation ranges on


@dataclass(frozen=True)
class Difference:
    """How an exported file's results differ from the run's; differences are shares of the range of all values."""

    images: int  # how many were compared
    map_difference: float  # largest, of maps of the same resized pixels
    full_size_difference: float  # the same of full-size images, which the graph resizes: grey levels may differ by 1
    score_difference: float  # largest, of full-size images
    changed_verdicts: int
    near_threshold: int  # how many of these have a score within ROUNDING of the threshold
    aurocs: Mapping[str, tuple[float, float]]  # name -> (the run's, the file's); empty without labelled NOK images
    milliseconds: tuple[float, float]  # median per image of (run, file), with batch size 1 and without decoding

    def within(self, tolerance: float, fall: float) -> bool:
        """Whether maps and scores differ by at most `tolerance`, and no AUROC falls by more; False for NaN."""
        worse = max((before - now for before, now in self.aurocs.values()), default=0.0)
        return self.score_difference <= tolerance and self.map_difference <= tolerance and worse <= fall

    def in_words(self) -> str:
        eager, exported = self.milliseconds
        figures = "".join(f"{name} {now:.4f}, of the run {before:.4f}; " for name, (before, now) in self.aurocs.items())
        return (
            f"compared with the run on {self.images} images: maps differ by at most {self.map_difference:.2g} of their "
            f"range ({self.full_size_difference:.2g} where the graph resizes), scores by {self.score_difference:.2g} "
            f"of theirs; verdicts that changed: {self.changed_verdicts} ({self.near_threshold} within rounding of the "
            f"threshold); {figures}{exported:.1f} ms per image, the run {eager:.1f} ms"
        )


def export_run(
    trained: TrainedRun,
    folder: Path,
    file_format: str,
    precision: str,
    batch: int | None = None,
    limit: int = 200,
    tolerance: float | None = None,
    category: str | None = None,
) -> tuple[Path, Difference]:
    """Writes the exported file and examples of its use, and compares its results with the run's.

    batch: the file's batch size; None: any, for OpenVINO 1. limit: largest number of held-out OK and test images that
    are compared. tolerance: largest allowed difference of maps and scores; None: TOLERANCE of the precision. category:
    whose threshold the file holds, and on whose images it is compared; None: all.

    Raises UserError, and removes the file, if the difference is larger, or in fp32 a verdict changes away from the
    threshold.
    """
    _refuse_impossible(trained, precision)
    refuse_run(folder)
    if file_format == "openvino":
        batch = batch or 1  # with a dynamic batch, OpenVINO 2026.4 returns wrong results the first time at each size
    trained = trained.for_category(category)
    splits = build_data(trained.run.config["data"])
    check_same_data(splits, trained.data, own=True)
    splits = trained.apply_mode(splits)
    source = trained if precision != "int8" else _quantised(trained, splits, category)
    graph = Deployed(source.model.cpu(), source.judge.size, source.threshold.image)
    about = describe(source, graph, format=file_format, precision=precision, batch=batch, category=category)
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob(f"{PART}*"):  # left by a killed export
        shutil.rmtree(part)
    with tempfile.TemporaryDirectory(prefix=PART, dir=folder) as unchecked:
        file = Path(unchecked) / FORMATS[file_format]
        write_graph(graph, file, precision, about, batch)
        allowed = TOLERANCE[precision] if tolerance is None else tolerance
        samples = [sample for sample in (*splits.val, *splits.test) if category in (None, sample.category)]
        samples = _evenly(samples, limit)
        result = compare(trained, Exported(file, trained.judge.threads, ["pt2"]), samples)
        moved = precision == "fp32" and result.changed_verdicts > result.near_threshold
        if moved or not result.within(allowed, FALL[precision]):
            raise UserError(
                f"The file was removed, because it does not reproduce the run: maps and scores may differ by at most "
                f"{allowed:g} of their range, and an AUROC may fall by {FALL[precision]:g} (use a higher precision, or "
                f"more images, if these are too few to measure so little). {result.in_words()}."
            )
        _remove_earlier(folder)
        for part in Path(unchecked).iterdir():
            part.replace(folder / part.name)
    for example in EXAMPLES.glob("predict.*"):
        shutil.copyfile(example, folder / example.name)
    if (trained.run.path / INSPECTOR).is_dir():
        shutil.copytree(trained.run.path / INSPECTOR, folder / INSPECTOR, dirs_exist_ok=True)
    if trained.golden:
        shutil.copyfile(trained.golden, folder / TEMPLATE)
    return folder / FORMATS[file_format], result


def _refuse_impossible(trained: TrainedRun, precision: str) -> None:
    if isinstance(trained.model, Exported):
        raise UserError(f"{trained.model.file} is already an exported file: set run= to the run it was made from.")
    if trained.judge.resize == "letterbox":
        raise UserError(
            "A run with resize=letterbox cannot be exported: the graph stretches pictures. Train with resize=stretch."
        )
    if precision == "int8" and (anew := [key for key in ("missed", "contamination") if trained.run.config.get(key)]):
        raise UserError(
            f"This run was trained with {' and '.join(anew)}. precision=int8 would take that back, as it sets "
            "statistics and threshold anew. Export it with precision=fp32 or fp16."
        )


def _remove_earlier(folder: Path) -> None:
    """Removes an earlier export, perhaps of another run."""
    shutil.rmtree(folder / INSPECTOR, ignore_errors=True)
    for name in (*FORMATS.values(), "model.bin", TEMPLATE, *(example.name for example in EXAMPLES.glob("predict.*"))):
        (folder / name).unlink(missing_ok=True)


def describe(trained: TrainedRun, graph: Deployed, **choices: Any) -> dict[str, Any]:
    """Returns the metadata of the file. choices: format, precision, batch size, category."""
    settings, threshold = trained.run.config, trained.threshold
    alignment = None if graph.alignment is None else asdict(graph.alignment)
    learned = dict.fromkeys(trained.data["learned"], "")  # by content alone, so that none of them tests the file
    return {
        "version": __version__,
        "licence": "MIT, as anomalib-lite; the backbone's weights may have a licence of their own",
        "run": trained.run.path.name,
        "detector": type(trained.model.method).__name__,
        "backbone": settings["backbone"].get("name"),
        "types": list((settings.get("defects") or {}).get("types") or []),
        **choices,
        "size": list(graph.size),
        "template": {"compares": graph.compares, "alignment": alignment},
        "region": None if trained.model.region is None else encode_region(trained.model.region),
        "promise": threshold.in_words(),
        "threshold": threshold.to_dict(),
        "data": {**trained.data, "learned": learned},
        "settings": {key: settings[key] for key in ("mode", *SHARED)} | {"aupro_limit": trained.judge.aupro_limit},
    }


def compare(trained: TrainedRun, exported: Exported, samples: Sequence[Sample]) -> Difference:
    """Compares the file, which gets decoded images at full size, with the run, which resizes them itself."""
    images, limit, rows = trained.judge.images(samples, keep=False), trained.threshold.image, []
    metrics_run, metrics_file = Measured(), Measured()
    for k, sample in enumerate(tqdm(samples, "compare", delay=2, leave=False)):
        batch, pixels = images[[k]], read_sample(sample)[None]
        template = exported.aligned_templates(batch.image, batch.template)
        begin = time.perf_counter()
        expected = trained.model.predict_batch(batch)
        middle = time.perf_counter()
        full_map, score, nok = exported.run(pixels, template)
        end = time.perf_counter()
        same_map = exported.run(to_pixels(batch.image), template)[0]
        true_map, true_score = expected.map[0, 0].numpy(), float(expected.score[0])
        same, full = (np.abs(anomaly_map[0] - true_map).max() for anomaly_map in (same_map, full_map))
        changed = bool(nok[0]) != trained.threshold.nok(true_score)
        levels = true_map.min(), true_map.max(), true_score, score[0]
        rows.append((same, full, *levels, changed, middle - begin, end - middle))
        mask = batch.mask[0, 0].numpy() if batch.has_mask[0] else None
        metrics_run.add(Outcome(sample, true_score, False, map=true_map, mask=mask))
        metrics_file.add(Outcome(sample, float(score[0]), False, map=full_map[0], mask=mask))
    same, full, low, high, true_score, score, changed, eager, file = np.array(rows, float).T
    map_range, score_range = max(high.max() - low.min(), 1e-12), max(np.ptp(true_score), 1e-12)
    near_threshold = np.abs(true_score - limit) <= ROUNDING * abs(limit)
    before, now = metrics_run.values(), metrics_file.values()
    aurocs = {name: (before[key], now[key]) for key, name in AUROCS.items()}
    return Difference(
        images=len(samples),
        map_difference=float(same.max() / map_range),
        full_size_difference=float(full.max() / map_range),
        score_difference=float(np.abs(score - true_score).max() / score_range),
        changed_verdicts=int(changed.sum()),
        near_threshold=int((changed * near_threshold).sum()),
        aurocs={name: (a, b) for name, (a, b) in aurocs.items() if a is not None and b is not None},
        milliseconds=(1000 * float(np.median(eager)), 1000 * float(np.median(file))),
    )


def _quantised(trained: TrainedRun, splits: Splits, category: str | None) -> TrainedRun:
    """Returns the run with quantised networks, and statistics and threshold fitted to their features of OK images.

    Quantisation noise is far larger than the variation in the old statistics, which would call everything anomalous.
    """
    judge, model = trained.judge, deepcopy(trained.model.cpu()).eval()  # `compare` wants both on the CPU
    train, val = judge.images([s for s in splits.train if s.origin == "real"]), judge.images(splits.val)
    quantise(model, [train[[k]] for k in _evenly(range(len(train)), CALIBRATION)])
    model.calibrate(cast(Batches, loader(model.method_inputs(train), judge.batch_size)), judge.batch_size)
    subset = _evenly(range(len(train)), CALIBRATION // 2)
    quantise_learned(model, drawn_batches(train, subset, len(subset), np.random.default_rng(0), 1))
    threshold, _ = find_threshold(model.eval(), val, judge.batch_size, *threshold_rule(trained.run.config))
    return replace(trained, model=model, threshold=threshold.of(category))


def _evenly(items: Sequence[T], limit: int) -> list[T]:
    """Returns at most `limit` evenly spaced items."""
    return [items[k] for k in np.linspace(0, len(items) - 1, min(len(items), limit)).round().astype(int)]
