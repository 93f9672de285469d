"""The rendered data set on disk."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomalib_lite.errors import UserError
from anomalib_lite.rendering import dataset
from anomalib_lite.rendering.dataset import PanelsConfig, write_dataset
from anomalib_lite.rendering.flaws import DEFECTS
from anomalib_lite.rendering.product import render_product
from anomalib_lite.rendering.streams import image_seed

SMALL = PanelsConfig(size=64, n_train=4, n_test_good=2, n_per_defect=2, defects=("scratch", "stain"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("artifacts"), SMALL, workers=2)


def pixels(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_the_folder_has_the_layout_of_mvtec_ad(folder):
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.png")}
    assert {f"train/good/00{i}.png" for i in range(4)} <= files
    assert {"test/good/001.png", "test/stain/001.png", "ground_truth/stain/001_mask.png"} <= files
    assert len(files) == 4 + 2 + 2 * 2 * 2 + 4
    mask = pixels(folder / "ground_truth/scratch/000_mask.png")
    assert mask.shape == (64, 64) and set(np.unique(mask)) == {0, 255}


def test_the_table_tells_the_truth(folder):
    with open(folder / "products.csv", newline="") as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    assert len(rows) == 10 and rows["train/good/000.png"]["severity"] == ""
    assert 0.1 <= float(rows["test/stain/001.png"]["severity"]) <= 0.9
    assert rows["test/stain/001.png"]["defect"] == "stain"


def test_an_image_depends_on_its_place_alone(folder, tmp_path):
    """Neither on how many are drawn, nor on their order or the number of threads."""
    fewer = PanelsConfig(size=64, n_train=2, n_test_good=0, n_per_defect=2, defects=("stain",))
    other = write_dataset(tmp_path, fewer, workers=1)
    for file in ("train/good/001.png", "test/stain/001.png", "ground_truth/stain/001_mask.png"):
        assert np.array_equal(pixels(folder / file), pixels(other / file))
    seed = image_seed(0, "train", "good", 3)
    assert np.array_equal(render_product(64, seed).image, pixels(folder / "train/good/003.png")[..., ::-1])


def test_a_folder_that_is_there_is_used_again(folder, monkeypatch):
    monkeypatch.setattr(dataset, "_render_into", lambda *_: pytest.fail("rendered twice"))
    assert write_dataset(folder.parent, SMALL) == folder


def test_other_settings_get_another_folder():
    assert len({c.key for c in (SMALL, PanelsConfig(), PanelsConfig(seed=1), PanelsConfig(jitter=0.5))}) == 4


def test_a_failed_rendering_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(dataset, "save_image", fail)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once_render_once_and_leave_one_whole_folder(tmp_path, monkeypatch):
    render, rendered = dataset._render_into, []

    def counted(*arguments):
        rendered.append(arguments)
        render(*arguments)

    monkeypatch.setattr(dataset, "_render_into", counted)
    with ThreadPoolExecutor(2) as pool:
        targets = list(pool.map(lambda _: write_dataset(tmp_path, SMALL), range(2)))
    assert len(rendered) == 1
    assert list(tmp_path.iterdir()) == targets[:1] and (targets[0] / "products.csv").is_file()


def test_the_set_is_too_hard_for_a_gaussian_a_pixel(tmp_path):
    """Else it would say nothing about detectors: normal variation must cover what a pixel alone can see."""
    config = PanelsConfig(size=96, n_train=40, n_test_good=24, n_per_defect=4)
    folder = write_dataset(tmp_path, config)

    def load(pattern):
        return np.stack([pixels(path).astype(np.float32) for path in sorted(folder.glob(pattern))])

    train = load("train/good/*.png")
    mean, deviation = train.mean(0), train.std(0) + 4
    scores, labels = [], []
    for name in ("good", *DEFECTS):
        for image in load(f"test/{name}/*.png"):
            squares = (((image - mean) / deviation) ** 2).mean(-1)
            scores.append(cv2.GaussianBlur(squares, (0, 0), 2).max())
            labels.append(name != "good")
    assert roc_auc_score(labels, scores) < 0.9


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"defects": ("rust",)}, "rust"),
        ({"severity": (0.9, 0.1)}, "severity"),
        ({"size": 8}, "32 pixels"),
        ({"n_train": -1}, "not negative"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(UserError, match=message):
        PanelsConfig(**setting)
