"""DeepPCB: scans of bare circuit boards, each with a clean template and boxes around defects of six types.

Tang, He, Huang, Yang, "Online PCB Defect Detector On A New PCB Defect Dataset", arXiv:1902.06197. Layout:
`trainval.txt` and `test.txt` list pairs as `GROUP/ID/STEM.jpg GROUP/ID_not/STEM.txt`: the scan is
GROUP/ID/STEM_test.jpg, the template GROUP/ID/STEM_temp.jpg, and the text file holds boxes `x1 y1 x2 y2 type`.
"""

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
# how a good board's scan may deviate from its template
SHIFT = 2.0  # px, standard deviation of the whole scan's shift
STRETCH = 0.005  # standard deviation of the scale per axis, and of shear and rotation (rad)
BEND, BEND_LENGTH = 0.7, 60.0  # px: standard deviation and correlation length of the local distortion
ETCHING = 0.12  # standard deviation of a scan's binarisation level (black 0, white 1): moves edges by about 0.5 px
ROUGHNESS, GRAIN = 0.18, 1.2  # standard deviation of the level within a scan, and its correlation length in px
OPTICS = 1.5  # px, blur of the scanner


class Pair(NamedTuple):
    """The files of one board. file: name of the images made from it, `GROUP_ID_STEM.png`."""

    file: str
    scan: Path
    template: Path
    boxes: Path


class Box(NamedTuple):
    """The pixels x0 <= x < x1, y0 <= y < y1. kind: defect type. score: confidence."""

    x0: float
    y0: float
    x1: float
    y1: float
    kind: str = ""
    score: float = 1.0


def read(root: str | Path, artifacts: str | Path, test_list: str = "test", **drawing: Any) -> Splits:
    """Reads the scans of `test_list` for testing, and simulates OK training images from the templates in trainval.txt.

    Every scan has defects, so the data set holds no OK pair. Each OK image is therefore a randomly moved, stretched and
    etched template (`simulated_pair`), paired with the template itself; scans and boxes of trainval.txt are not used.
    The masks of the test images are their filled boxes. OK images and masks are written once, below `artifacts`.
    Raises UserError if a folder, list, image or box file is missing, or a box is malformed.
    """
    base = data_folder(root)
    train_pairs, test_pairs = read_pairs(base, "trainval"), read_pairs(base, test_list)
    templates = [(p.file, p.template.stat().st_size) for p in train_pairs]
    boxes = [(p.file, p.boxes.read_text()) for p in test_pairs]
    artifact_folder = Path(artifacts) / f"deeppcb-{artifact_key(test_list, templates, boxes)}"

    def make(folder: Path) -> None:
        for number, pair in enumerate(train_pairs):
            template = read_image(pair.template)[..., 0]
            write_image(folder / "ok" / pair.file, simulated_pair(template, np.random.default_rng([0, number])))
        for pair in test_pairs:
            mask = np.zeros(read_image(pair.scan).shape[:2], bool)
            for box in read_boxes(pair.scan):
                mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
            write_image(folder / "masks" / pair.file, mask)

    artifact(artifact_folder, make)
    ok = [Sample(artifact_folder / "ok" / p.file, OK, template=p.template) for p in train_pairs]
    test = []
    for pair in test_pairs:
        kinds = {box.kind for box in read_boxes(pair.scan)}
        defect = kinds.pop() if len(kinds) == 1 else "several" if kinds else None
        test.append(Sample(pair.scan, NOK, artifact_folder / "masks" / pair.file, pair.template, defect))
    return make_splits(ok, test, artifact_folder, **{"val_share": 0.5} | drawing)


def data_folder(root: str | Path) -> Path:
    """Returns the folder with the lists: `root` or, as in the authors' repository, `root`/PCBData."""
    base = require_folder(root, "DeepPCB")
    for folder in (base, base / "PCBData"):
        if (folder / "trainval.txt").is_file() and (folder / "test.txt").is_file():
            return folder
    raise UserError(f"{base.absolute()} has no trainval.txt and test.txt: set data.root to DeepPCB's folder PCBData.")


def read_pairs(base: Path, name: str) -> list[Pair]:
    """Reads the pairs named in `base`/`name`.txt."""
    pairs = []
    for line in filter(None, map(str.strip, (base / f"{name}.txt").read_text().splitlines())):
        image, _, boxes = line.partition(" ")
        stem = Path(image).with_suffix("")
        scan, template = (base / stem.with_name(f"{stem.name}_{kind}.jpg") for kind in ("test", "temp"))
        pair = Pair(f"{stem.as_posix().replace('/', '_')}.png", scan, template, base / boxes.strip())
        if absent := [p for p in pair[1:] if not p.is_file()]:
            raise UserError(f"{absent[0]} is missing, but listed in {base / name}.txt: is the download complete?")
        pairs.append(pair)
    if not pairs:
        raise UserError(f"{base / name}.txt lists no pairs.")
    return pairs


def read_boxes(scan: Path) -> list[Box]:
    """Reads the boxes of a scan GROUP/ID/STEM_test.jpg, in its pixel coordinates."""
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


def simulated_pair(template: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulates a black-and-white scan of a good board from its template, uint8 (H, W).

    The template is shifted, stretched, sheared, locally distorted, blurred and binarised. The binarisation level varies
    from scan to scan, like etching and exposure, and from place to place, which makes the edges rough.
    """
    height, width = template.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    linear = np.eye(2) + rng.normal(0, STRETCH, (2, 2)) * [[0.2, 0.2], [0.2, 1.0]]  # the scanner moves vertically
    shift = rng.normal(0, SHIFT, 2)
    x, y = columns - width / 2, rows - height / 2
    x, y = (linear[i, 0] * x + linear[i, 1] * y + shift[i] + s / 2 for i, s in enumerate((width, height)))
    x, y = (t.astype(np.float32) + BEND * _smooth_noise(template.shape, BEND_LENGTH, rng) for t in (x, y))
    moved = cv2.remap(template, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32) / 255
    grey = cv2.GaussianBlur(moved, (0, 0), OPTICS)
    level = 0.5 + rng.normal(0, ETCHING) + ROUGHNESS * _smooth_noise(template.shape, GRAIN, rng)
    return np.where(grey > level.clip(0.1, 0.9), 255, 0).astype(np.uint8)


def _smooth_noise(shape: tuple[int, int], length: float, rng: np.random.Generator) -> np.ndarray:
    """Returns noise of variance 1 with a correlation length of `length` px."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), length)
    return noise / max(float(noise.std()), 1e-9)
