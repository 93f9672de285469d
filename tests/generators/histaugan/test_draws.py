"""What a training step sees."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_lite.data.decode import read_image
from anomalib_lite.generators.histaugan.generator import Draw, Draws, Images

SIZES = {"size": (40, 40), "crop": (32, 32), "flip": True}


def test_the_template_comes_with_its_probability(ok: list[Path], template: Path) -> None:
    draws = list(Draws(Images(ok, template, **SIZES, template_probability=0.1), 20_000, 4, seed=0))
    share = np.mean([draw.domain for draw in draws])
    assert share == pytest.approx(0.1, abs=0.01)
    assert {draw.image for draw in draws if draw.domain == 1} == {len(ok)}
    assert {draw.image for draw in draws if draw.domain == 0} == set(range(len(ok)))


def test_an_epoch_shows_every_image_and_fills_whole_batches(ok: list[Path]) -> None:
    draws = Draws(Images(ok, None, **SIZES), len(ok), 4, seed=0)
    assert len(draws) == len(list(draws)) == 12
    assert sorted(draw.image for draw in list(draws)[:10]) == list(range(10))


def test_draws_depend_on_seed_and_epoch_alone(ok: list[Path]) -> None:
    images = Images(ok, None, **SIZES)
    first, second, other = Draws(images, 10, 2, 0), Draws(images, 10, 2, 0), Draws(images, 10, 2, 1)
    list(first)
    first.set_epoch(3)
    second.set_epoch(3)
    assert list(first) == list(second) != list(other)
    second.set_epoch(4)
    assert list(first) != list(second)


def test_a_crop_is_cut_and_mirrored_and_jitter_changes_colour_alone(ok: list[Path], template: Path) -> None:
    images = Images(ok, None, **SIZES)
    cut, domain = images[Draw(2, 0, 5, 8, True, (1.5, 1.5, 1.5))]
    expected = read_image(ok[2])[5:37, 8:40][:, ::-1].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    assert domain == 0
    images = Images([template], None, **SIZES, jitter=True)
    plain, brighter = (images[Draw(0, 0, 0, 0, False, (b, 1.0, 1.0))][0] for b in (1.0, 0.8))
    torch.testing.assert_close(brighter, 0.8 * plain)
