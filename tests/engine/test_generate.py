"""Generated images as the training gets them: made once, whole or absent, with their origin."""

import json
import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.engine.generate import Order, generated_set, read_order, train_generator
from anomalib_lite.errors import UserError
from anomalib_lite.rendering.product import draw_conditions, render_product
from tests.made import write_pixels


@pytest.fixture(scope="module")
def ok(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for i in range(6):
        image = render_product(64, i, None, None, draw_conditions(i, 1.0)).image
        write_pixels(folder / f"{i:03d}.png", image[..., ::-1])
    return [Sample(path, OK) for path in sorted(folder.iterdir())]


def order(target: str = "Recolour", seed: int = 0, **generator) -> Order:
    return read_order({"_target_": f"tests.generators.tiny.{target}", "count": 3, **generator}, seed)


@pytest.fixture
def make(ok, tmp_path):
    def make(asked: Order, images=ok, template=None, data="data", tracker=None):
        return generated_set(asked, images, template, data, tmp_path / "artifacts", tracker)

    return make


def test_samples_carry_origin_and_are_the_same_for_all_who_ask(ok, tmp_path, make, trainings):
    template = shutil.copy(ok[0].image, tmp_path / "template.png")
    with_template = [Sample(s.image, OK, template=template) for s in ok]
    samples = make(order(), with_template, template).samples
    assert [s.origin for s in samples] == ["generated", "template_generated", "generated"]
    assert all(s.label == OK and s.mask is None and s.template == template for s in samples)
    assert all(s.image.is_file() for s in samples) and len({s.image for s in samples}) == 3
    assert make(order(), with_template, template).samples == samples
    assert len(trainings()) == 1


def test_what_defines_the_training_trains_again_and_nothing_else(ok, tmp_path, make, trainings):
    first = make(order()).folder
    others = {make(order(**values)).folder for values in (
        {"structure_guard": {"enabled": False}}, {"strength": 0.1}, {"count": 2}
    )}  # fmt: skip
    assert len({first, *others}) == 4 and len(trainings()) == 1
    for asked, data in ((order(seed=1), "data"), (order(look=1), "data"), (order(), "other")):
        train_generator(asked, ok, None, data, tmp_path / "artifacts")
    assert len(trainings()) == 4
    own_seed = read_order({**order().settings, "count": 3, "seed": 0}, 7)  # one training for a sweep over seeds
    assert make(own_seed).folder == first and len(trainings()) == 4


def test_moved_data_and_moved_weights_keep_what_was_made_of_them(ok, tmp_path, make, trainings):
    """A trained generator knows its images by their place alone; a file that it starts from counts by its content."""
    start = tmp_path / "start.bin"
    start.write_bytes(b"weights")
    made = make(order(start_from=str(start), count=2))
    moved = [Sample(Path(shutil.copy(s.image, tmp_path / s.image.name)), OK) for s in ok]
    elsewhere = shutil.copy(start, tmp_path / "elsewhere.bin")
    again = make(order(start_from=str(elsewhere), count=3), moved)
    assert len(trainings()) == 1 and again.samples[0].image.read_bytes() == made.samples[0].image.read_bytes()
    start.write_bytes(b"other weights")
    make(order(start_from=str(start), count=2))
    assert len(trainings()) == 2


def test_a_killed_training_goes_on(tmp_path, make, trainings):
    with pytest.raises(RuntimeError, match="killed"):
        make(order(fail_at=1))
    assert [p.name for p in (tmp_path / "artifacts").iterdir() if not p.name.startswith(".")] == []
    made = make(order(fail_at=1))
    (trained,) = (tmp_path / "artifacts").glob("generator-*")
    assert len(trainings()) == 2 and len(list(trained.glob("step*"))) == 3
    steps = [json.loads(line)["step"] for line in (trained / "losses.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2], "the second training began anew"
    assert "Training" in (made.report / "generated.html").read_text()


def test_the_tracker_gets_losses_quality_and_pictures(make):
    class Tracker:
        def __init__(self):
            self.logger, self.values = self, []

        def log_metrics(self, metrics, step=None):
            self.values.append((step, metrics))

        def log_result(self, findings):
            self.metrics, self.pictures = findings.metrics, findings.pictures["generated"]

    tracker = Tracker()
    make(order(), tracker=tracker)
    assert [step for step, _ in tracker.values] == [0, 1, 2] and tracker.values[0][1] == {"loss": 1.0}
    assert tracker.metrics["generated"]["drawn"]["kept"] == 3
    ((caption, sheet),) = tracker.pictures
    assert "real" in caption and sheet.dtype == np.uint8 and sheet.shape[2] == 3


def test_one_ok_image_is_enough_and_the_report_says_what_it_cannot_tell(ok, make):
    made = make(order(count=None), ok[:1])
    assert len(made.samples) == 1 and made.quality["frechet"] is None
    assert cv2.imread(str(made.samples[0].image)).shape == (64, 64, 3)
    assert "frechet not available: needs four images per set" in (made.report / "generated.html").read_text()


def test_fewer_than_asked_for_is_said(make, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(make(order(damage=-6)).samples) == 2
    assert "3 images were requested, but only 2 of 12 drawn images have an intact structure" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"damage": 1}, "All 12 images that Recolour generated have a damaged structure"),
        ({"target": "Refusing"}, "not with these images"),
        ({"images": []}, "there are none"),
    ],
)
def test_what_cannot_be_made_is_explained_and_leaves_nothing_half_made(ok, make, tmp_path, values, message):
    images = values.pop("images", ok)
    with pytest.raises(UserError, match=message):
        make(order(**values), images)
    assert list(tmp_path.glob("artifacts/generated-*")) == []
