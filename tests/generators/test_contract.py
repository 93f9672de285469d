"""Every generator keeps the contract, and is by default what Python builds, with preset=paper what the authors did."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.generators.base import Generated, Generator
from anomalib_lite.generators.histaugan import HistAuGAN
from anomalib_lite.generators.singan import SinGAN
from anomalib_lite.generators.singan.pyramid import channels, pyramid_sizes
from anomalib_lite.runs.artifacts import content_hash
from anomalib_lite.settings import conf_dir
from tests.made import picture, write_image, write_pixels

DRAWING = ("count", "seed", "structure_guard")
GENERATORS = sorted(path.stem for path in (conf_dir() / "generator").glob("*.yaml") if path.stem != "none")


def build(name: str, *overrides: str, verb: str = "generate") -> Any:
    with initialize_config_dir(str(conf_dir()), version_base=None):
        settings = OmegaConf.to_container(compose(verb, [f"generator={name}", *overrides]).generator, resolve=True)
    return instantiate({key: value for key, value in settings.items() if key not in DRAWING})


def made_by(name: str) -> Generator:
    return build(name, "preset=smoke", *(["generator.images=2"] if name == "singan" else []))


def alike(ours: Generated, theirs: Generated) -> bool:
    return np.array_equal(ours.image, theirs.image) and ours[1:] == theirs[1:]


def write_pictures(folder: Path) -> list[Sample]:
    """The template, then five OK images."""
    return [Sample(write_image(folder / f"{i}.png", seed=i, size=(40, 40), mark=True), OK) for i in range(6)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Sample]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module", params=[(name, golden) for name in GENERATORS for golden in (False, True)], ids=str)
def fitted(request, pictures, tmp_path_factory) -> tuple[str, bool, Generator, Path]:
    name, golden = request.param
    folder, generator = tmp_path_factory.mktemp("fitted"), made_by(name)
    generator.fit(pictures[1:], pictures[0] if golden else None, folder, 0)
    return name, golden, generator, folder


def test_what_fit_left_gives_the_same_samples_of_images_that_were_moved(fitted, pictures, tmp_path):
    name, _, generator, folder = fitted
    (tmp_path / "ok").mkdir()
    moved = [Sample(Path(shutil.copy(s.image, tmp_path / "ok")), OK) for s in pictures[1:]]
    again = made_by(name)
    again.load(Path(shutil.copytree(folder, tmp_path / "elsewhere")))
    ours, theirs = generator.sample(4, 1, pictures[1:]), again.sample(4, 1, moved)
    assert all(alike(*pair) for pair in zip(ours, theirs, strict=True))


def test_the_first_samples_are_those_of_fewer_and_the_seed_decides(fitted, pictures):
    six, two, other = (list(fitted[2].sample(n, seed, pictures[1:])) for n, seed in ((6, 1), (2, 1), (2, 2)))
    assert len(six) == 6 and all(map(alike, six, two)) and not all(map(alike, two, other))


def test_samples_are_pictures_that_say_where_they_come_from(fitted, pictures):
    made = list(fitted[2].sample(12, 0, pictures[1:]))
    assert all(one.image.dtype == np.uint8 and one.image.shape[2:] == (3,) and 0 <= one.content < 5 for one in made)
    assert {one.origin for one in made} <= ({"generated", "template_generated"} if fitted[1] else {"generated"})


def test_training_leaves_no_pickle_and_no_image_changed(fitted, pictures, tmp_path):
    before, after = ([content_hash(s.image) for s in made] for made in (write_pictures(tmp_path), pictures))
    assert before == after
    assert {path.suffix for path in fitted[3].rglob("*") if path.is_file()} <= {".safetensors", ".json"}


@pytest.mark.parametrize("name", GENERATORS)
def test_16_bit_images_are_as_bright_as_the_depth_of_their_data_set_says(name, tmp_path):
    made = []
    for factor in (np.uint8(1), np.uint16(257)):
        dark = (picture(k, (40, 40)) // 5 * factor for k in range(4))
        files = (write_pixels(tmp_path / f"{factor}/{k}.png", pixels) for k, pixels in enumerate(dark))
        golden, *ok = (Sample(file, OK, bits=16) for file in files)
        generator = made_by(name)
        generator.fit(ok, golden, tmp_path / f"{factor}", 0)
        made.append(list(generator.sample(3, 0, ok)))
    assert all(map(alike, *made))


@pytest.mark.parametrize(("name", "kind"), [("histaugan", HistAuGAN), ("singan", SinGAN)])
def test_the_configuration_and_python_name_one_method(name, kind):
    assert vars(build(name)) == vars(build(name, "generator.schedule=null")) == vars(kind())


def values(settings: Any) -> list[Any]:
    return list(asdict(settings).values())[1:]  # less the name of the class


@pytest.mark.parametrize("verb", ["generate", "train"])
def test_the_papers_presets_are_the_official_codes(verb):
    gan = build("histaugan", "preset=paper", verb=verb)
    assert (gan.size, gan.crop, gan.flip) == ((256, 256), (216, 216), True)
    assert values(gan.architecture) == [64, 8, 4, 3, 64, 6, 0.02]
    assert values(gan.losses) == [1, 1, 5, 1, 10, 10, 0.01, 0.01, 10]
    assert values(gan.schedule) == [1200, 600, 2, 1e-4, 1.0, 0.4, 1e-4, 10]
    assert (gan.finetuning.epochs, gan.finetuning.discriminator_rate, gan.finetuning.content_rate) == (100, 1.0, 0.4)
    assert (gan.template_probability, gan.sampling) == (0.1, "random")

    singan = build("singan", "preset=paper", verb=verb)
    shape = singan.shape
    assert values(singan.schedule) == [2000, 3, 3, 5e-4, 0.5, 0.8, 0.1, 10.0]
    assert values(shape) == [250, 25, 0.75, 32, 128, 0.1]
    scales = range(len(pyramid_sizes(256, 256, shape.factor, shape.max_size, shape.min_size)))
    assert [channels(n, shape.width, shape.max_width) for n in scales] == [32] * 4 + [64] * 4 + [128] * 2


def test_options_reach_the_gan_and_what_changes_the_sampling_alone_needs_no_new_training():
    gan = build("histaugan", "preset=smoke", "generator.size=[64,96]", "trainer.precision=bf16-mixed")
    assert (gan.size, gan.schedule.epochs, gan.precision) == ((64, 96), 1, "bf16-mixed")
    assert set(SinGAN.after_training) == {"start_scale", "stretch"}
    assert set(HistAuGAN.after_training) == {"sampling", "template_share"}
