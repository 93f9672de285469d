from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import Sample
from anomalib_lite.defects import LevelsOfMaps
from anomalib_lite.detectors.model import Prediction
from anomalib_lite.jobs.defects import add_batch, make_inspector, open_book
from anomalib_lite.scoring import threshold_from_ok
from tests.defects.conftest import SHAPE, perfect, photograph, settings
from tests.made import write_pixels


@pytest.fixture
def train(tmp_path) -> ImageSet:
    files = [write_pixels(tmp_path / f"train/{i}.png", photograph(i)[..., ::-1]) for i in range(6)]
    made = write_pixels(tmp_path / "generated.png", np.zeros((*SHAPE, 3), np.uint8))
    return ImageSet([Sample(made, 0, origin="generated")] + [Sample(file, 0) for file in files], SHAPE)


def test_from_training_to_a_book(train, tmp_path):
    golden = write_pixels(tmp_path / "golden.png", cv2.resize(perfect(), None, fx=2, fy=2)[..., ::-1])
    levels = LevelsOfMaps()
    levels.update(np.zeros((2, 1, *SHAPE), np.float32))
    made = make_inspector(settings(), tmp_path, train, levels, golden)
    assert made.reference.alike > 0.95  # the generated, black image had no part in it
    book = open_book(tmp_path, threshold_from_ok([0.1], [0.1]))
    image, mask = perfect(), np.zeros(SHAPE, np.uint8)
    image[12:24, 58:70], mask[12:24, 58:70] = (90, 160, 205), 255
    sample = Sample(
        write_pixels(tmp_path / "test/stain/7.png", photograph(9, image)[..., ::-1]), 1,
        write_pixels(tmp_path / "7_mask.png", mask), defect="stain",
    )  # fmt: skip
    test = ImageSet([sample], SHAPE)
    values = torch.from_numpy(cv2.GaussianBlur(mask / np.float32(255), (0, 0), 2.5))[None, None]
    for batch in loader(test, 1):
        add_batch(book, test, batch, Prediction(values, values.amax((1, 2, 3))))
    (page,) = book.pages
    assert page.image == "stain/7.png" and page.name == "stain" and page.kind == "colour_scratch"
    assert book.metrics()["type_accuracy"] == 1


@pytest.mark.parametrize("config", [None, {"types": None}])
def test_defects_can_be_left_out(config, train, tmp_path):
    assert make_inspector(config, tmp_path, train, LevelsOfMaps(), None) is None
    book = open_book(tmp_path, threshold_from_ok([0.1], [0.1]))
    assert book is None
    add_batch(book, train, None, None)
