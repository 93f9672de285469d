"""Few small images and a GAN that trains in a second."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from anomalib_lite.generators.histaugan import Architecture, HistAuGAN, Schedule
from tests.made import write_image

TINY = Architecture(channels=4, attributes=4, content_blocks=1, decoder_blocks=1, discriminator_channels=4)
SHORT = Schedule(epochs=2, decay_epoch=2, batch=4, learning_rate=1e-3, checkpoint_every=1)


@pytest.fixture(scope="session")
def ok(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("ok")
    return [write_image(folder / f"{i}.png", seed=i, size=(40, 40)) for i in range(10)]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image(tmp_path_factory.mktemp("golden") / "golden.png", seed=99, size=(40, 40), mark=True)


@pytest.fixture(scope="session")
def build() -> Callable[..., HistAuGAN]:
    def make(**options: object) -> HistAuGAN:
        given = dict(size=40, crop=32, architecture=TINY, schedule=SHORT, finetuning=replace(SHORT, epochs=5)) | options
        return HistAuGAN(**given)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def one_domain(ok: list[Path], build: Callable[..., HistAuGAN], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a GAN trained on OK images. Read only."""
    folder = tmp_path_factory.mktemp("one")
    build().fit(ok, None, folder, seed=3)
    return folder


@pytest.fixture(scope="session")
def two_domains(
    ok: list[Path], template: Path, build: Callable[..., HistAuGAN], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a GAN trained on OK images and a template. Read only."""
    folder = tmp_path_factory.mktemp("two")
    build(template_probability=0.4).fit(ok, template, folder, seed=3)
    return folder
