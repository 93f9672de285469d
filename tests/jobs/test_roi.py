"""Where images are inspected: nothing beyond it raises an alarm or counts, in training and in prediction."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.metrics import PixelMetrics
from tests.commands import Command, read_json, read_rows, trained
from tests.made import write_category


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """stripes/ in MVTec AD's layout, and left.png, white on the left half."""
    made = write_category(tmp_path / "stripes", train=10, good=3, defects={"dot": 2})
    shape = cv2.imread(str(next((made / "train/good").iterdir()))).shape[:2]
    left = np.zeros(shape, np.uint8)
    left[:, : shape[1] // 2] = 255
    cv2.imwrite(str(tmp_path / "left.png"), left)
    return tmp_path


OWN = [
    "data=mvtec_ad", "data.root=.", "data.category=stripes", "preset=smoke", "tracking=none", "threads=1",
    "detector=padim", "image_size=48",
]  # fmt: skip


def predicted(run_verb: Command, run: Path, images: Path, output: Path, *more: str) -> tuple[list[float], np.ndarray]:
    done = run_verb("predict", f"run={run}", f"images={images}", f"output={output}", "overlays=false", *more)
    assert done.status == 0, done.err
    scores = [float(row["score"]) for row in read_rows(output / "predictions.csv")]
    return scores, np.stack([cv2.imread(str(p), -1) for p in sorted((output / "maps").iterdir())])


def test_a_defect_beyond_the_region_raises_no_alarm(run_verb: Command, folder: Path):
    whole, half = trained(*OWN), trained(*OWN, "roi=left.png")
    assert whole != half
    image = cv2.imread(str(next((folder / "stripes/test/good").iterdir())))
    damaged = folder / "damaged"
    damaged.mkdir()
    image[8:40, -20:] = (0, 0, 255)
    cv2.imwrite(str(damaged / "right.png"), image)
    limit = read_json(whole / "threshold.json")["image"]
    (found,), _ = predicted(run_verb, whole, damaged, folder / "a")
    (passed,), maps = predicted(run_verb, half, damaged, folder / "b")
    assert found > limit and passed < found
    assert not maps[0][:, 24:].any() and maps[0][:, :24].any()
    (narrowed,), maps = predicted(run_verb, whole, damaged, folder / "c", "ignore=left.png")
    assert narrowed == pytest.approx(found, rel=0.2) and not maps[0][:, :24].any()
    nothing = run_verb("predict", f"run={half}", f"images={damaged}", "ignore=left.png", "output=d")
    assert nothing.status == 2 and "exclude all pixels" in nothing.err
    refused = run_verb("train", *OWN, "roi=nosuch.png")
    assert refused.status == 2 and "nosuch.png" in refused.err
    refused = run_verb("train", *OWN, f"roi={damaged / 'right.png'}")
    assert refused.status == 2 and "looks like a photograph" in refused.err


def test_pixels_beyond_the_region_do_not_count():
    rng = np.random.default_rng(0)
    maps = rng.random((4, 12, 12), dtype=np.float32)
    masks = np.zeros((4, 12, 12), bool)
    masks[2:, 3:6, 1:5] = masks[3, 3:6, 8:11] = True
    counted = np.zeros((12, 12), bool)
    counted[:, :6] = True
    part, cut = PixelMetrics(), PixelMetrics()
    part.update(maps, masks, [0, 0, 1, 1], counted=counted)
    cut.update(maps[:, :, :6], masks[:, :, :6], [0, 0, 1, 1])
    assert part.compute().values == cut.compute().values
    beyond = PixelMetrics()  # a defect that lies beyond alone leaves its image out
    beyond.update(maps[2:], masks[2:], [1, 1], counted=~counted)
    assert beyond.compute().counts["images_without_mask"] == 1
