"""A trained run -> one file for other programs, held against the run itself before it stays."""

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
from anomalib_lite.data.decode import read_image
from anomalib_lite.data.fingerprint import check_same_data
from anomalib_lite.data.images import loader, to_pixels
from anomalib_lite.data.sample import Outcome, Sample, Splits
from anomalib_lite.detectors.model import Batches
from anomalib_lite.engine.build import SHARED, build_data, threshold_rule
from anomalib_lite.engine.evaluate import INSPECTOR, Measured, find_threshold
from anomalib_lite.engine.predict import TrainedRun
from anomalib_lite.errors import UserError
from anomalib_lite.export.graph import FORMATS, Deployed, write_graph
from anomalib_lite.export.quantise import quantise, quantise_learned
from anomalib_lite.export.session import Exported, packed
from anomalib_lite.runs.atomic import PART
from anomalib_lite.runs.folder import TEMPLATE

log = logging.getLogger(__name__)
EXAMPLES = Path(__file__).resolve().parents[1] / "export" / "examples"
ROUNDING = 1e-4  # relative difference from the threshold within which rounding decides
TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "int8": 1.0}  # largest difference, see `Difference`
FALL = {"fp32": 0.0005, "fp16": 0.002, "int8": 0.01}  # by which an AUROC may fall, where there are NOK images
AUROCS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC"}
T = TypeVar("T")
CALIBRATION = 64  # training images that int8 finds its ranges by


@dataclass(frozen=True)
class Difference:
    """An exported file against its run, on images as they lie on disk.

    Attributes:
        map: The largest difference of a map from the run's, of the same resized pixels; as a share of the range of the
            run's maps over all images.
        own_size: The same of pictures at their own size, which the graph resizes: a grey level of one pixel may differ.
        score: The largest difference of a score, of pictures at their own size, likewise of the scores' range.
        verdicts: Images whose verdict changed.
        on_limit: Those of them whose score lies on the threshold but for rounding.
        aurocs: Of images and of pixels, the run's and the file's; nothing where no NOK image is known.
        milliseconds: An image, of the run and of the file, the median, batches of one, decoding left out.
    """

    images: int
    map: float
    own_size: float
    score: float
    verdicts: int
    on_limit: int
    aurocs: Mapping[str, tuple[float, float]]
    milliseconds: tuple[float, float]

    def within(self, tolerance: float, fall: float) -> bool:
        """A number that is none is never within."""
        worse = max((before - now for before, now in self.aurocs.values()), default=0.0)
        return self.score <= tolerance and self.map <= tolerance and worse <= fall

    def in_words(self) -> str:
        eager, exported = self.milliseconds
        figures = "".join(f"{name} {before:.4f}, now {now:.4f}; " for name, (before, now) in self.aurocs.items())
        return (
            f"{self.images} images, against the run: largest difference of a map {self.map:.2g} of the maps' range "
            f"({self.own_size:.2g} where the graph resizes), of a score {self.score:.2g} of theirs; verdicts that "
            f"changed: {self.verdicts} ({self.on_limit} of them on the threshold itself); {figures}{eager:.1f} ms an "
            f"image before, {exported:.1f} ms now"
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
        precision: fp32, fp16 or int8.
        batch: Images that are judged at once; None: any number, of OpenVINO one.
        limit: Held-out OK and test images that it is held against, at most.
        tolerance: Of maps and scores, see `Difference`; None: by precision.

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
    made = trained if precision != "int8" else _in_8_bits(trained, splits)
    graph = Deployed(made.model.cpu(), made.judge.size, made.threshold.image)
    about = describe(made, graph, format, precision, batch)
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder)
    with tempfile.TemporaryDirectory(prefix=PART, dir=folder) as place:
        file = Path(place) / FORMATS[format]
        write_graph(graph, file, precision, about, batch)
        allowed = TOLERANCE[precision] if tolerance is None else tolerance
        samples = _evenly([*splits.val, *splits.test], limit)
        found = compare(trained, Exported(file, trained.judge.threads, ["pt2"]), samples)
        if not found.within(allowed, FALL[precision]) or (precision == "fp32" and found.verdicts > found.on_limit):
            raise UserError(
                f"The file does not give the run's numbers within {allowed:g} (an AUROC within {FALL[precision]:g}), "
                f"and was removed. {found.in_words()}."
            )
        for part in Path(place).iterdir():
            part.replace(folder / part.name)
    for example in EXAMPLES.glob("predict.*"):
        shutil.copyfile(example, folder / example.name)
    if (trained.run.path / INSPECTOR).is_dir():
        shutil.copytree(trained.run.path / INSPECTOR, folder / INSPECTOR, dirs_exist_ok=True)
    if trained.golden:
        shutil.copyfile(trained.golden, folder / TEMPLATE)
    return folder / FORMATS[format], found


def clear(folder: Path) -> None:
    """Removes what an earlier export wrote, or left when it was killed."""
    for left in folder.glob(f"{PART}*"):
        shutil.rmtree(left)
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
        "region": None if trained.model.region is None else packed(trained.model.region),
        "promise": threshold.in_words(),
        "threshold": threshold.to_dict(),
        "data": {"fingerprint": trained.known["fingerprint"], "bits": trained.known.get("bits"), "learned": {}},
        "settings": {key: settings[key] for key in ("mode", *SHARED)} | {"aupro_limit": trained.judge.aupro_limit},
    }


def compare(trained: TrainedRun, exported: Exported, samples: Sequence[Sample]) -> Difference:
    """The file judges what is decoded from disk, at its own size; the run judges as always."""
    images, limit, rows = trained.judge.images(samples, keep=False), trained.threshold.image, []
    before, now = Measured(), Measured()
    for k, sample in enumerate(tqdm(samples, "compare", delay=2, leave=False)):
        batch, pixels = images[[k]], read_image(sample.image, sample.bits)[None]
        template = exported.laid_over(batch.image, batch.template)
        begin = time.perf_counter()
        expected = trained.model.predict_batch(batch)
        middle = time.perf_counter()
        map, score, nok = exported.run(pixels, template)
        end = time.perf_counter()
        same = exported.run(to_pixels(batch.image), template)[0]
        right, known = expected.map[0, 0].numpy(), float(expected.score[0])
        off, own = (np.abs(one[0] - right).max() for one in (same, map))
        changed = bool(nok[0]) != trained.threshold.nok(known)
        rows.append((off, own, right.min(), right.max(), known, score[0], changed, middle - begin, end - middle))
        mask = batch.mask[0, 0].numpy() if batch.has_mask[0] else None
        for measured, one, value in ((before, right, known), (now, map[0], float(score[0]))):
            measured.add(Outcome(sample, value, False, map=one, mask=mask))
    off, own, low, high, known, score, changed, eager, file = np.array(rows, float).T
    maps, scores = max(high.max() - low.min(), 1e-12), max(np.ptp(known), 1e-12)
    on_limit = np.abs(known - limit) <= ROUNDING * abs(limit)
    old, new = before.values(), now.values()
    aurocs = {word: (old[key], new[key]) for key, word in AUROCS.items()}
    return Difference(
        images=len(samples),
        map=float(off.max() / maps),
        own_size=float(own.max() / maps),
        score=float(np.abs(score - known).max() / scores),
        verdicts=int(changed.sum()),
        on_limit=int((changed * on_limit).sum()),
        aurocs={word: (a, b) for word, (a, b) in aurocs.items() if a is not None and b is not None},
        milliseconds=(1000 * float(np.median(eager)), 1000 * float(np.median(file))),
    )


def _in_8_bits(trained: TrainedRun, splits: Splits) -> TrainedRun:
    """The run with rounded networks; statistics and threshold are of what those give, of OK images as ever.

    Rounding is far louder than what statistics of OK images know: left as they were, they would call all of it
    anomalous.
    """
    judge, model = trained.judge, deepcopy(trained.model).cpu().eval()
    train, val = judge.images([s for s in splits.train if s.origin == "real"]), judge.images(splits.val)
    quantise(model, [train[[k]] for k in _evenly(range(len(train)), CALIBRATION)])
    model.calibrate(cast(Batches, loader(model.method_inputs(train), judge.batch_size)), judge.batch_size)
    some = _evenly(range(len(train)), CALIBRATION // 2)
    quantise_learned(model, drawn_batches(train, some, len(some), np.random.default_rng(0), 1))
    threshold, _ = find_threshold(model.eval(), val, judge.batch_size, *threshold_rule(trained.run.config))
    return replace(trained, model=model, threshold=threshold)


def _evenly(items: Sequence[T], limit: int) -> list[T]:
    """All of them, or so many."""
    return [items[k] for k in np.linspace(0, len(items) - 1, min(len(items), limit)).round().astype(int)]
