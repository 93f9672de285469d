"""Small images, and GANs that train on them in a second, shared by the tests and read only."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.generators.histaugan import Architecture, HistAuGAN
from anomalib_lite.generators.histaugan import Schedule as HistSchedule
from anomalib_lite.generators.singan import Schedule, Shape, SinGAN
from anomalib_lite.generators.singan.pyramid import Pyramid
from tests.made import write_image

TINY = Architecture(channels=4, attributes=4, content_blocks=1, decoder_blocks=1, discriminator_channels=4)
SHORT = HistSchedule(epochs=2, decay_epoch=2, batch=4, learning_rate=1e-3, checkpoint_every=1)
QUICK = Schedule(iterations=4, critic_steps=1, generator_steps=1)
# of a 40 px image: 16, 19, 23, 27, 32 px
SMALL = Shape(max_size=32, min_size=16, width=4, max_width=4)
tiny_singan = partial(SinGAN, shape=SMALL, schedule=QUICK, start_scale=1)
Build = Callable[..., HistAuGAN]


@pytest.fixture(scope="session")
def ok(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("ok")
    return [Sample(write_image(folder / f"{i}.png", seed=i, size=(40, 40)), OK) for i in range(10)]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return Sample(write_image(tmp_path_factory.mktemp("golden") / "golden.png", seed=99, size=(40, 40), mark=True), OK)


@pytest.fixture(scope="session")
def build() -> Build:
    fast = replace(SHORT, epochs=5)
    return partial(HistAuGAN, size=40, crop=32, architecture=TINY, schedule=SHORT, finetuning=fast)


@pytest.fixture(scope="session")
def one_domain(ok: list[Sample], build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a HistAuGAN trained on OK images."""
    folder = tmp_path_factory.mktemp("one")
    build().fit(ok, None, folder, seed=3)
    return folder


@pytest.fixture(scope="session")
def two_domains(ok: list[Sample], template: Sample, build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a HistAuGAN trained on OK images and a template."""
    folder = tmp_path_factory.mktemp("two")
    build(template_probability=0.4).fit(ok, template, folder, seed=3)
    return folder


@pytest.fixture(scope="session")
def trained(ok: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> tuple[SinGAN, Path]:
    """A SinGAN of two pyramids, with its folder."""
    singan, folder = tiny_singan(images=2), tmp_path_factory.mktemp("singan")
    singan.fit(ok, None, folder, seed=7)
    return singan, folder


@pytest.fixture
def pyramid(trained: tuple[SinGAN, Path]) -> Pyramid:
    return trained[0].pyramids[0]
