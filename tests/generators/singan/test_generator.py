"""SinGAN behind the generators' contract."""

import json

import pytest

from anomalib_lite.data.decode import read_image
from anomalib_lite.errors import UserError
from anomalib_lite.generators.singan.generator import spread
from tests.generators.singan.conftest import tiny_singan


def test_samples_are_images_of_the_pyramids_in_turn(trained, ok):
    samples = list(trained[0].sample(5, 0, ok))
    contents = [sample.content for sample in samples]
    assert contents[0] == contents[2] == contents[4] != contents[1] == contents[3]
    assert set(contents) <= set(range(5))
    assert {(s.image.shape, str(s.image.dtype), s.origin) for s in samples} == {((32, 32, 3), "uint8", "generated")}


def test_an_image_larger_than_the_pyramid_is_reduced_once(trained, ok):
    pyramid = trained[0].pyramids[0]
    mean = read_image(ok[pyramid.content]).mean() / 127.5 - 1
    assert tuple(pyramid.real.shape) == (1, 3, 32, 32)
    assert float(pyramid.real.mean()) == pytest.approx(mean, abs=0.01)


def test_images_are_spread_over_the_set():
    for seed in range(20):
        places = spread(100, 4, seed)
        assert [place // 25 for place in places] == [0, 1, 2, 3]
    assert len({tuple(spread(100, 4, seed)) for seed in range(20)}) > 10
    assert spread(3, 3, 0) == [0, 1, 2]


def test_bfloat16_trains_as_well(ok, tmp_path):
    singan = tiny_singan(precision="bf16-mixed")
    singan.fit(ok, None, tmp_path, 0)
    losses = json.loads((tmp_path / "singan.json").read_text())[0]["reconstruction_rmse"]
    assert len(losses) == 5 and max(losses) < 1
    assert next(singan.sample(1, 0, ok)).image.std() > 0


def test_the_losses_reach_the_logger_with_rising_steps(ok, tmp_path):
    class Logger:
        def __init__(self):
            self.rows = []

        def log_metrics(self, metrics, step):
            self.rows.append((step, metrics))

    logger = Logger()
    tiny_singan().fit(ok, None, tmp_path, 0, [logger])
    steps = [step for step, _ in logger.rows]
    assert steps == sorted(set(steps))
    assert max(steps) == 5 * 6
    assert [row["singan image 1/1/scale"] for _, row in logger.rows] == [0, 1, 2, 3, 4]
    names = {name.rsplit("/", 1)[1] for name in logger.rows[0][1]}
    assert names == {"scale", "critic", "penalty", "adversarial", "reconstruction"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"images": 6}, "generator.images"), ({"start_scale": 5}, "0 to 4"), ({"start_scale": -1}, "0 to 4")],
)
def test_what_cannot_be_is_said_before_any_training(ok, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        tiny_singan(**changes).fit(ok, None, tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_settings_without_sense_and_an_unfinished_folder_are_refused(ok, tmp_path):
    with pytest.raises(UserError, match="stretch must be two numbers"):
        tiny_singan(stretch=(1.0,))
    with pytest.raises(UserError, match=r"singan\.json"):
        tiny_singan().load(tmp_path)
    with pytest.raises(UserError, match="not been trained"):
        next(tiny_singan().sample(1, 0, ok))
