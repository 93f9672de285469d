"""Where images are inspected: nothing beyond it raises an alarm or counts, in training and in prediction."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.metrics import PixelMetrics
from tests.commands import ran, read_json, read_rows, refused, trained
from tests.made import write_category, write_pixels

OWN = [
    "data=mvtec_ad", "data.root=.", "data.category=stripes", "preset=smoke", "tracking=none", "threads=1",
    "detector=padim", "image_size=48",
]  # fmt: skip


def predicted(run: Path, output: str, *more: str) -> tuple[float, np.ndarray]:
    ran("predict", f"run={run}", "images=damaged", f"output={output}", "overlays=false", *more)
    (row,) = read_rows(Path(output) / "predictions.csv")
    return float(row["score"]), cv2.imread(f"{output}/maps/right.tiff", -1)


def test_a_defect_beyond_the_region_raises_no_alarm(here):
    """left.png is white on the left half, the defect lies on the right."""
    made = write_category(here / "stripes", train=10, good=3, defects={"dot": 2})
    image = cv2.imread(str(next((made / "test/good").iterdir())))
    left = np.zeros(image.shape[:2], np.uint8)
    left[:, : left.shape[1] // 2] = 255
    write_pixels(here / "left.png", left)
    image[8:40, -20:] = (0, 0, 255)
    write_pixels(here / "damaged/right.png", image)
    whole, half = trained(*OWN), trained(*OWN, "roi=left.png")
    assert whole != half
    found, _ = predicted(whole, "a")
    passed, heatmap = predicted(half, "b")
    assert found > read_json(whole / "threshold.json")["image"] and passed < found
    assert not heatmap[:, 24:].any() and heatmap[:, :24].any()
    narrowed, heatmap = predicted(whole, "c", "ignore=left.png")
    assert narrowed == pytest.approx(found, rel=0.2) and not heatmap[:, :24].any()
    assert "exclude all pixels" in refused("predict", f"run={half}", "images=damaged", "ignore=left.png", "output=d")
    assert "nosuch.png" in refused("train", *OWN, "roi=nosuch.png")
    assert "looks like a photograph" in refused("train", *OWN, "roi=damaged/right.png")


def test_a_mask_of_another_shape_than_the_photographs_is_told_and_refused_where_a_letterbox_would_misplace_it(here):
    made = write_category(here / "stripes", train=10, good=3, defects={"dot": 2})
    height, width = cv2.imread(str(next((made / "test/good").iterdir()))).shape[:2]
    for name, shape in (("narrow", (40, 20)), ("rounded", (100, 101))):
        mask = np.full(shape, 255, np.uint8)
        mask[:9] = 0
        write_pixels(here / f"{name}.png", mask)
    said = "narrow.png is 20 x 40 px, but the photograph"
    warned = ran("train", *OWN, "ignore=narrow.png")
    assert warned.err.count(said) == 1 and f"is {width} x {height} px: it is stretched" in warned.err
    assert said in refused("train", *OWN, "roi=narrow.png", "resize=letterbox") and not list(here.glob("artifacts/*"))
    assert "rounded.png is" not in ran("train", *OWN, "roi=rounded.png", "resize=letterbox").err


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
