"""Every generator as its configuration makes it keeps the contract of a generator."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_lite.generators.base import Generated, Generator
from anomalib_lite.runs.artifacts import content_hash
from anomalib_lite.settings import conf_dir
from tests.generators.test_config import build
from tests.made import write_image

GENERATORS = sorted(path.stem for path in (conf_dir() / "generator").glob("*.yaml") if path.stem != "none")


def made_by(name: str) -> Generator:
    return build(name, "preset=smoke", *(["generator.images=2"] if name == "singan" else []))


def alike(ours: Generated, theirs: Generated) -> bool:
    return np.array_equal(ours.image, theirs.image) and ours[1:] == theirs[1:]


def write_pictures(folder: Path) -> list[Path]:
    """The template, then five OK images."""
    return [write_image(folder / f"{i}.png", seed=i, size=(40, 40), mark=True) for i in range(6)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module", params=[(name, golden) for name in GENERATORS for golden in (False, True)], ids=str)
def fitted(
    request: Any, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, bool, Generator, Path]:
    name, golden = request.param
    folder = tmp_path_factory.mktemp("fitted")
    generator = made_by(name)
    generator.fit(pictures[1:], pictures[0] if golden else None, folder, 0)
    return name, golden, generator, folder


def test_what_fit_left_gives_the_same_samples_of_images_that_were_moved(
    fitted: Any, pictures: list[Path], tmp_path: Path
) -> None:
    name, _, generator, folder = fitted
    elsewhere, ok = Path(shutil.copytree(folder, tmp_path / "elsewhere")), tmp_path / "ok"
    ok.mkdir()
    moved = [Path(shutil.copy(path, ok)) for path in pictures[1:]]
    again = made_by(name)
    again.load(elsewhere)
    for ours, theirs in zip(generator.sample(4, 1, pictures[1:]), again.sample(4, 1, moved), strict=True):
        assert alike(ours, theirs)


def test_the_first_samples_are_those_of_fewer_and_the_seed_decides(fitted: Any, pictures: list[Path]) -> None:
    generator = fitted[2]
    six, two, other = (list(generator.sample(n, seed, pictures[1:])) for n, seed in ((6, 1), (2, 1), (2, 2)))
    assert len(six) == 6 and all(alike(*pair) for pair in zip(six, two, strict=False))
    assert not all(alike(*pair) for pair in zip(two, other, strict=True))


def test_samples_are_pictures_that_say_where_they_come_from(fitted: Any, pictures: list[Path]) -> None:
    _, golden, generator, _ = fitted
    origins = set()
    for one in generator.sample(12, 0, pictures[1:]):
        assert one.image.dtype == np.uint8 and one.image.ndim == 3 and one.image.shape[2] == 3
        assert 0 <= one.content < 5
        origins.add(one.origin)
    assert origins <= ({"generated", "template_generated"} if golden else {"generated"})


def test_training_leaves_no_pickle_and_no_image_changed(pictures: list[Path], tmp_path: Path, fitted: Any) -> None:
    again = write_pictures(tmp_path)
    assert [content_hash(path) for path in pictures] == [content_hash(path) for path in again]
    assert {path.suffix for path in fitted[3].rglob("*") if path.is_file()} <= {".safetensors", ".json"}
