"""A tiny training that the tests of this folder share."""

from pathlib import Path

import pytest
import torch

from anomalib_lite.generators.singan import Schedule, Shape, SinGAN
from anomalib_lite.generators.singan.pyramid import Pyramid
from tests.made import write_image

TINY = Shape(max_size=32, min_size=16, width=4, max_width=4)  # of a 40 px image: 16, 19, 23, 27, 32 px
QUICK = Schedule(iterations=6, critic_steps=1, generator_steps=1)


def tiny_singan(**changes) -> SinGAN:
    return SinGAN(**{"shape": TINY, "schedule": QUICK, "start_scale": 1} | changes)


@pytest.fixture(scope="session")
def ok(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("ok")
    return [write_image(folder / f"{i}.png", seed=i, size=(40, 40), mark=True) for i in range(5)]


@pytest.fixture(scope="session")
def trained(ok: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[SinGAN, Path]:
    """With its folder. Two pyramids. Read only."""
    folder = tmp_path_factory.mktemp("singan")
    singan = tiny_singan(images=2)
    singan.fit(ok, None, folder, seed=7)
    return singan, folder


@pytest.fixture
def pyramid(trained: tuple[SinGAN, Path]) -> Pyramid:
    return trained[0].pyramids[0]


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)
