"""Images are drawn until enough have kept their structure, up to a bound; losses are kept in a file."""

import numpy as np
import pytest

from anomalib_lite.data.decode import shrunk
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import MOST_DRAWS, Drawing, LossLog, read_losses
from tests.generators import tiny
from tests.generators.test_structure import product
from tests.made import write_pixels


@pytest.fixture(scope="module")
def ok(tmp_path_factory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("ok")
    return [Sample(write_pixels(folder / f"{seed}.png", product(seed, 64)[..., ::-1]), OK) for seed in range(4)]


@pytest.fixture
def draw(ok, tmp_path):
    def start(generator: tiny.Recolour, count: int, quantile: float | None = None) -> Drawing:
        generator.fit(ok, None, tmp_path, 0)
        generator.load(tmp_path)
        return Drawing(generator, count, 0, ok, quantile)

    return start


def test_enough_images_are_kept_although_some_are_damaged(draw):
    drawing = draw(tiny.Recolour(damage=3), 6, 0.01)
    drawn = list(drawing)
    assert drawing.size == (64, 64)
    assert [one.kept for one in drawn] == [False, True, True] * 3
    assert min(one.overlap for one in drawn if one.kept) >= drawing.guard.threshold
    assert min(one.ssim for one in drawn if one.kept) > max(one.ssim for one in drawn if not one.kept)


def test_an_image_as_it_was_equals_its_content_whatever_its_bits(tmp_path):
    dark = write_pixels(tmp_path / "dark.png", product(0, 64).astype(np.uint16) * 64)  # of 14 bits, read with 16
    generator = tiny.Recolour(strength=0)
    generator.template = False
    (one,) = Drawing(generator, 1, 0, [Sample(dark, OK, bits=16)])
    assert one.ssim == pytest.approx(1)


def test_a_generator_that_only_damages_is_given_up(draw):
    assert [one.kept for one in draw(tiny.Recolour(damage=1), 5, 0.01)] == [False] * 5 * MOST_DRAWS
    unguarded = draw(tiny.Recolour(damage=1), 5)
    assert unguarded.guard is None and [one.kept for one in unguarded] == [True] * 5


def test_a_generator_without_images_or_with_strange_ones_is_named(draw):
    with pytest.raises(UserError, match="Silent gives no image"):
        draw(tiny.Silent(), 2)
    with pytest.raises(ValueError, match="OK image 4 as its content, of 4"):
        list(draw(tiny.Stranger(), 2))


def test_large_images_are_compared_small():
    assert shrunk((1024, 512, 3), 256) == (256, 128) and shrunk((100, 80, 3), 256) == (100, 80)


def test_losses_are_appended_and_torn_lines_and_numbers_that_are_none_left_out(tmp_path):
    path = tmp_path / "losses.jsonl"
    for value in (1.5, 0.5):  # a resumed training goes on in the same file
        LossLog(path).log_metrics({"a": value, "b": float("nan")}, step=3)
    with path.open("a") as stream:
        stream.write('{"step": 4, "a"')
    assert read_losses(path).values.tolist() == [[3, "a", 1.5], [3, "a", 0.5]]
    assert read_losses(tmp_path / "absent").empty
