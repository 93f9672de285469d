"""A trained run -> one file for other programs, held against the run itself before it stays."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from anomalib_lite import __version__
from anomalib_lite.data.decode import read_image
from anomalib_lite.data.fingerprint import check_same_data
from anomalib_lite.data.images import ImageSet, to_pixels
from anomalib_lite.data.sample import Sample, Splits
from anomalib_lite.engine.build import SHARED, build_data
from anomalib_lite.engine.evaluate import INSPECTOR
from anomalib_lite.engine.predict import TrainedRun
from anomalib_lite.errors import UserError
from anomalib_lite.export.files import FORMATS, Inputs, write_graph
from anomalib_lite.export.graph import Deployed
from anomalib_lite.export.session import Exported, lay_over
from anomalib_lite.runs.folder import TEMPLATE

log = logging.getLogger(__name__)
EXAMPLES = Path(__file__).resolve().parents[1] / "export" / "examples"
ROUNDING = 1e-4  # relative difference from the threshold within which rounding decides
TOLERANCE = {
    "fp32": ROUNDING,
    "fp16": 0.05,
    "int8": 1.0,
}  # largest relative difference of a score; see `Difference.within`
CALIBRATION = 64  # OK training images that int8 finds its ranges by


@dataclass(frozen=True)
class Difference:
    """An exported file against its run, on images as they lie on disk.

    Attributes:
        images: How many.
        map: The largest difference of a map, relative to that map's largest value, of the same resized pixels.
        own_size: The same of pictures at their own size, which the graph resizes: a grey level of one pixel may differ.
        score: The largest relative difference of a score, of pictures at their own size.
        verdicts: Images whose verdict changed.
        on_limit: Those of them whose score lies on the threshold but for rounding.
        milliseconds: An image, of the run and of the file, the median, batches of one, decoding left out.
    """

    images: int
    map: float
    own_size: float
    score: float
    verdicts: int
    on_limit: int
    milliseconds: tuple[float, float]

    def within(self, tolerance: float) -> bool:
        """Of scores; single places of a map may differ by ten times as much. A number that is none is never within."""
        return self.score <= tolerance and self.map <= 10 * tolerance

    def in_words(self) -> str:
        eager, exported = self.milliseconds
        return (
            f"{self.images} images, against the run: largest relative difference of a map {self.map:.2g} "
            f"({self.own_size:.2g} where the graph resizes), of a score {self.score:.2g}; {self.verdicts} verdicts "
            f"changed ({self.on_limit} of them on the threshold itself); {eager:.1f} ms an image before, "
            f"{exported:.1f} ms now"
        )


def export_run(
    trained: TrainedRun,
    folder: Path,
    format: str,
    precision: str,
    batch: int | None = None,
    limit: int = 200,
    tolerance: float | None = None,
) -> tuple[Path, Difference]:
    """Writes the file and examples of its use, and holds it against the run.

    Args:
        trained: The run.
        folder: To write to.
        format: One of FORMATS.
        precision: One of PRECISIONS.
        batch: Images that are judged at once; None: any number, of OpenVINO one.
        limit: Held-out OK and test images that it is held against, at most.
        tolerance: See `Difference.within`; None: by precision.

    Errors: UserError where the difference is larger, or a verdict changes away from the threshold in fp32; nothing
    stays then.
    """
    if isinstance(trained.model, Exported):
        raise UserError(f"{trained.model.file} is exported already: name the run that it was made from.")
    if trained.judge.resize == "letterbox":
        raise UserError(
            "A run of resize=letterbox cannot be exported yet: the graph stretches pictures. Train with resize=stretch."
        )
    if format == "openvino":
        batch = batch or 1  # with any number OpenVINO 2026.4 answers wrongly, the first time that it sees a number
    splits = build_data(trained.run.config["data"])
    check_same_data(splits, trained.known, own=True)
    splits = trained.shown(splits)
    graph = Deployed(trained.model.cpu(), trained.judge.size, trained.threshold.image)
    about = describe(trained, graph, format, precision, batch)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FORMATS[format]
    clear(folder)
    try:
        write_graph(graph, file, precision, about, batch, _calibration(trained, graph, splits, batch or 1))
        allowed = TOLERANCE[precision] if tolerance is None else tolerance
        samples = _evenly([*splits.val, *splits.test], limit)
        found = compare(trained, Exported(file, trained.judge.threads), samples)
        if not found.within(allowed) or (precision == "fp32" and found.verdicts > found.on_limit):
            raise UserError(
                f"The file does not give the run's numbers within {allowed:g}, and was removed. {found.in_words()}."
            )
    except BaseException:
        clear(folder)
        raise
    for example in EXAMPLES.glob("predict.*"):
        shutil.copyfile(example, folder / example.name)
    if (trained.run.path / INSPECTOR).is_dir():
        shutil.copytree(trained.run.path / INSPECTOR, folder / INSPECTOR, dirs_exist_ok=True)
    if trained.golden:
        shutil.copyfile(trained.golden, folder / TEMPLATE)
    return file, found


def clear(folder: Path) -> None:
    """Removes what an earlier export wrote."""
    for name in (*FORMATS.values(), "model.bin", *(example.name for example in EXAMPLES.glob("predict.*"))):
        (folder / name).unlink(missing_ok=True)


def describe(trained: TrainedRun, graph: Deployed, format: str, precision: str, batch: int | None) -> dict[str, Any]:
    """What the file says of itself."""
    settings, threshold = trained.run.config, trained.threshold
    types = list((settings.get("defects") or {}).get("types") or [])
    alignment = None if graph.alignment is None else asdict(graph.alignment)
    return {
        "version": __version__,
        "licence": "MIT, as anomalib-lite; the backbone's weights may have a licence of their own",
        "run": trained.run.path.name,
        "detector": type(trained.model.method).__name__,
        "backbone": settings["backbone"].get("name"),
        "types": types,
        "format": format,
        "precision": precision,
        "size": list(graph.size),
        "batch": batch,
        "template": {"compares": graph.compares, "alignment": alignment},
        "promise": threshold.in_words(),
        "threshold": threshold.to_dict(),
        "data": {"fingerprint": trained.known["fingerprint"], "bits": trained.known.get("bits"), "learned": {}},
        "settings": {key: settings[key] for key in ("mode", *SHARED)} | {"aupro_limit": trained.judge.aupro_limit},
    }


def compare(trained: TrainedRun, exported: Exported, samples: Sequence[Sample]) -> Difference:
    """The file judges what is decoded from disk, at its own size; the run judges as always."""
    images = ImageSet(samples, trained.judge.size, ram_limit_mb=0, resize=trained.judge.resize)
    limit, of_map, own_size, of_score, changed, close, took = trained.threshold.image, 0.0, 0.0, 0.0, 0, 0, []
    for k, sample in enumerate(tqdm(samples, "compare", delay=2, leave=False)):
        batch, pixels = images[[k]], read_image(sample.image, sample.bits)[None]
        template = exported.laid_over(batch.image, batch.template)
        begin = time.perf_counter()
        expected = trained.model.predict_batch(batch)
        middle = time.perf_counter()
        map, score, nok = exported.run(pixels, template)
        took.append((middle - begin, time.perf_counter() - middle))
        same = exported.run(to_pixels(batch.image), template)[0]
        own, known = float(score[0]), float(expected.score[0])
        right = expected.map[0, 0].numpy()
        off = [float(np.abs(one[0] - right).max()) / max(float(right.max()), 1e-12) for one in (same, map)]
        of_map, own_size = max(of_map, off[0]), max(own_size, off[1])
        of_score = max(of_score, abs(own - known) / max(abs(known), 1e-12))
        if bool(nok[0]) != trained.threshold.nok(known):
            changed += 1
            close += abs(known - limit) <= ROUNDING * abs(limit)
    eager, file = (1000 * float(np.median(column)) for column in zip(*took, strict=True))
    return Difference(len(samples), of_map, own_size, of_score, changed, close, (eager, file))


def _calibration(trained: TrainedRun, graph: Deployed, splits: Splits, count: int) -> Iterator[Inputs]:
    """OK images that were learned from, one at a time, each `count` times."""
    samples = _evenly([s for s in splits.train if s.origin == "real"], CALIBRATION)
    images = ImageSet(samples, trained.judge.size, ram_limit_mb=0, resize=trained.judge.resize)
    for k in range(len(samples)):
        batch = images[[k]]
        inputs = {"pixels": to_pixels(batch.image)}
        if graph.compares:
            inputs["template"] = lay_over(graph.alignment, batch.image, batch.template)
        yield {name: value.repeat(count, 0) for name, value in inputs.items()}


def _evenly(samples: Sequence[Sample], limit: int) -> list[Sample]:
    if len(samples) <= limit:
        return list(samples)
    return [samples[k] for k in np.linspace(0, len(samples) - 1, limit).round().astype(int)]
