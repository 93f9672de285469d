"""DeepPCB: pairs of a bare board's scan and its clean template, defects as boxes of six types.

Tang, He, Huang, Yang, "Online PCB Defect Detector On A New PCB Defect Dataset", arXiv:1902.06197. Layout:
`trainval.txt` and `test.txt` with lines `GROUP/ID/STEM.jpg GROUP/ID_not/STEM.txt`; beside them GROUP/ID/STEM_test.jpg,
GROUP/ID/STEM_temp.jpg and the boxes `x1 y1 x2 y2 type`. Copper is dark.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from anomalib_lite.data.decode import read_image
from anomalib_lite.data.files import require_folder
from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.data.splits import make_splits
from anomalib_lite.errors import UserError
from anomalib_lite.runs.artifacts import artifact, artifact_key
from anomalib_lite.runs.atomic import write_image

KINDS = ("open", "short", "mousebite", "spur", "copper", "pin-hole")  # types 1 to 6
# what a good board's scan may look like beside its template
SHIFT = 2.0  # px, standard deviation of the whole picture's shift
STRETCH = 0.005  # standard deviation of the change of scale, of each axis for itself, and of shear and turn (rad)
BEND, BEND_LENGTH = 0.7, 60.0  # px: how far parts lie off beyond that, and over which length this changes
ETCHING = 0.12  # standard deviation of the level, of black to white, at which the scan is cut in two: +-0.5 px of edge
ROUGHNESS, GRAIN = 0.18, 1.2  # likewise of the level from place to place, and its length in px
OPTICS = 1.5  # px, blur of the scanner


class Pair(NamedTuple):
    """file: name of what is made of it, `GROUP_ID_STEM.png`."""

    file: str
    scan: Path
    template: Path
    boxes: Path


class Box(NamedTuple):
    """Pixels x0 <= x < x1, y0 <= y < y1. kind: defect type. score: larger is surer."""

    x0: float
    y0: float
    x1: float
    y1: float
    kind: str = ""
    score: float = 1.0


def read(root: str | Path, artifacts: str | Path, test_list: str = "test", **drawing: Any) -> Splits:
    """The scans of `test_list`, each with its own template, to test on; OK pairs simulated from the templates of
    trainval.txt to learn from.

    Every scan has defects, so that the set holds no OK pair. Each OK image here is a template moved, stretched and
    etched a little differently by chance (`simulated_pair`), compared with the template itself: no scan of
    trainval.txt and none of its boxes is learned from. Masks of the test images are their boxes, filled. OK images and
    masks are made once, in a folder below `artifacts`.
    Errors: UserError for an absent folder, list, picture or box file, and for a box that cannot be read.
    """
    base = data_folder(root)
    clean, tested = read_pairs(base, "trainval"), read_pairs(base, test_list)
    parts = [(p.file, p.template.stat().st_size) for p in clean], [(p.file, p.boxes.read_text()) for p in tested]
    made = Path(artifacts) / f"deeppcb-{artifact_key(test_list, *parts)}"

    def make(folder: Path) -> None:
        for name in ("ok", "masks"):
            (folder / name).mkdir(exist_ok=True)
        for number, pair in enumerate(clean):
            template = read_image(pair.template)[..., 0]
            write_image(folder / "ok" / pair.file, simulated_pair(template, np.random.default_rng([0, number])))
        for pair in tested:
            mask = np.zeros(read_image(pair.scan).shape[:2], bool)
            for box in read_boxes(pair.scan):
                mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
            write_image(folder / "masks" / pair.file, mask)

    artifact(made, make)
    ok = [Sample(made / "ok" / p.file, OK, template=p.template) for p in clean]
    test = [Sample(p.scan, NOK, made / "masks" / p.file, p.template, _defect(read_boxes(p.scan))) for p in tested]
    drawing.setdefault("val_share", 0.5)
    return make_splits(ok, test, made, **drawing)


def data_folder(root: str | Path) -> Path:
    """Where the lists lie: `root` itself or, as in the authors' repository, its folder PCBData."""
    base = require_folder(root, "DeepPCB")
    for folder in (base, base / "PCBData"):
        if (folder / "trainval.txt").is_file() and (folder / "test.txt").is_file():
            return folder
    raise UserError(f"{base.absolute()} has no trainval.txt and test.txt: set data.root to DeepPCB's folder PCBData.")


def read_pairs(base: Path, name: str) -> list[Pair]:
    """The pairs that a list names."""
    pairs = []
    for line in (base / f"{name}.txt").read_text().splitlines():
        if not line.strip():
            continue
        image, _, boxes = line.strip().partition(" ")
        stem = Path(image).with_suffix("")
        scan, template = (base / stem.with_name(f"{stem.name}_{kind}.jpg") for kind in ("test", "temp"))
        pair = Pair(f"{stem.as_posix().replace('/', '_')}.png", scan, template, base / boxes.strip())
        absent = [p for p in (pair.scan, pair.template, pair.boxes) if not p.is_file()]
        if absent:
            raise UserError(f"{absent[0]} is missing, which {base / name}.txt names: is the download complete?")
        pairs.append(pair)
    if not pairs:
        raise UserError(f"{base / name}.txt names no pairs.")
    return pairs


def read_boxes(scan: Path) -> list[Box]:
    """The defects of a scan GROUP/ID/STEM_test.jpg, in its own pixels."""
    path = scan.parent.with_name(f"{scan.parent.name}_not") / f"{scan.stem.removesuffix('_test')}.txt"
    if not path.is_file():
        raise UserError(f"{scan} has no box file {path}.")
    boxes = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        fields = line.replace(",", " ").split()
        if not fields:
            continue
        try:
            x0, y0, x1, y1, kind = (int(field) for field in fields)
            if not (x0 < x1 and y0 < y1 and kind in range(1, len(KINDS) + 1)):
                raise ValueError
        except ValueError:
            raise UserError(f"{path}, line {number}: '{line}' is no box `x1 y1 x2 y2 type` (type 1 to 6).") from None
        boxes.append(Box(x0, y0, x1, y1, KINDS[kind - 1]))
    return boxes


def _defect(boxes: Sequence[Box]) -> str | None:
    kinds = {box.kind for box in boxes}
    return kinds.pop() if len(kinds) == 1 else "several" if kinds else None


def simulated_pair(template: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A scan of a board as its template (H, W) uint8 wants it, black and white.

    Moved, stretched and sheared, bent a little along the way of the scanner, blurred, and cut into black and white at a
    level that differs from scan to scan, as etching and exposure do, and from place to place, as edges are rough.
    """
    height, width = template.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    linear = np.eye(2) + rng.normal(0, STRETCH, (2, 2)) * [[0.2, 0.2], [0.2, 1.0]]  # the scanner's way is vertical
    shift = rng.normal(0, SHIFT, 2)
    x, y = columns - width / 2, rows - height / 2
    x, y = (linear[i, 0] * x + linear[i, 1] * y + shift[i] + s / 2 for i, s in enumerate((width, height)))
    x, y = (t.astype(np.float32) + BEND * _smooth_noise(template.shape, BEND_LENGTH, rng) for t in (x, y))
    moved = cv2.remap(template, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32) / 255
    grey = cv2.GaussianBlur(moved, (0, 0), OPTICS)
    level = 0.5 + rng.normal(0, ETCHING) + ROUGHNESS * _smooth_noise(template.shape, GRAIN, rng)
    return np.where(grey > level.clip(0.1, 0.9), 255, 0).astype(np.uint8)


def _smooth_noise(shape: tuple[int, int], length: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of variance 1 that changes over `length` px."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), length)
    return noise / max(float(noise.std()), 1e-9)
