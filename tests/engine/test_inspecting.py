import cv2
import numpy as np
import pytest

from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import Sample
from anomalib_lite.defects import LevelsOfMaps
from anomalib_lite.engine.evaluate import make_inspector, open_collector
from anomalib_lite.scoring import threshold_from_ok
from tests.defects.conftest import SHAPE, perfect, photograph, settings
from tests.defects.test_collect import case, outcome
from tests.made import write_pixels


@pytest.fixture
def train(tmp_path) -> ImageSet:
    files = [write_pixels(tmp_path / f"train/{i}.png", photograph(i)[..., ::-1]) for i in range(6)]
    made = write_pixels(tmp_path / "generated.png", np.zeros((*SHAPE, 3), np.uint8))
    return ImageSet([Sample(made, 0, origin="generated")] + [Sample(file, 0) for file in files], SHAPE)


def test_an_inspector_is_made_in_training_and_opened_again(train, tmp_path):
    golden = write_pixels(tmp_path / "golden.png", cv2.resize(perfect(), None, fx=2, fy=2)[..., ::-1])
    make_inspector(settings(), tmp_path, train, LevelsOfMaps(), golden)
    collector = open_collector(tmp_path, threshold_from_ok([0.1], [0.1]))
    assert collector.inspector.reference.alike > 0.95  # the generated, black image had no part in it
    picture, values, mask = case(9, 14)
    (defect,) = collector.add(outcome("stain/7.png", picture, values, "stain", mask)).defects
    assert defect.kind == "colour_scratch" and collector.metrics()["type_accuracy"] == 1


@pytest.mark.parametrize("config", [None, {"types": None}])
def test_defects_can_be_left_out(config, train, tmp_path):
    make_inspector(config, tmp_path, train, LevelsOfMaps(), None)
    assert open_collector(tmp_path, threshold_from_ok([0.1], [0.1])) is None
