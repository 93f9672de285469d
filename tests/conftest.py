"""What several rooms' tests share: the real data sets, a rendered one, the command line, and one trained run."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
os.environ["WANDB_MODE"] = "offline"

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import chromium
from tests.commands import REPOSITORY, Command, command_line, in_process
from tests.made import write_category

SMOKE_PANELS = {"size": 96, "n_train": 40, "n_test_good": 6, "n_per_defect": 2}  # as preset=smoke asks for


@pytest.fixture(scope="session")
def datasets_root() -> Path:
    """The folder of the real data sets; tests that ask for it carry the marker `datasets`."""
    root = Path(os.environ.get("ANOMALIB_LITE_DATASETS") or REPOSITORY.parent / "shared" / "datasets")
    if not root.is_dir():
        pytest.skip(f"no real data sets at {root}: set ANOMALIB_LITE_DATASETS to the folder of mvtec_ad and mtd")
    return root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "datasets_root" in getattr(item, "fixturenames", ()):
            item.add_marker("datasets")


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="session")
def small_panels(artifacts: Path) -> Path:
    """The folder of the rendered data set that preset=smoke uses."""
    from anomalib_lite.rendering.product import write_dataset
    from anomalib_lite.settings.data import PanelsConfig

    return write_dataset(artifacts, PanelsConfig(**SMOKE_PANELS))


@pytest.fixture(scope="session")
def smoke_run(artifacts: Path, small_panels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run trained by `anomalib-lite train preset=smoke`, as a user starts it. Read only."""
    home = tmp_path_factory.mktemp("smoke")
    done = command_line(
        "train", "preset=smoke", "detector=stfpm", "tracking=csv", f"paths.artifacts={artifacts}", cwd=home
    )
    assert done.status == 0, done.err
    (folder,) = (home / "runs" / "default").iterdir()
    return folder


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category in MVTec AD's layout that trains in a second with TINY's values. Read only."""
    folder = tmp_path_factory.mktemp("tiny") / "stripes"
    return write_category(folder, train=10, good=3, defects={"dot": 2, "square": 2})


@pytest.fixture(scope="session")
def tiny(tiny_set: Path) -> list[str]:
    """Overrides for a training of a second on `tiny_set`."""
    return [
        "preset=smoke", "detector=stfpm", "tracking=none", "threads=1", "data=mvtec_ad",
        f"data.root={tiny_set.parent}", f"data.category={tiny_set.name}", "image_size=48", "batch_size=4",
        "detector.gaussian.choose=levels", "defects=none",
    ]  # fmt: skip


Seal = Callable[[Path], Path]


@pytest.fixture
def sealed() -> Iterator[Seal]:
    """Makes a folder one that nobody can write to, root included."""

    def seal(folder: Path) -> Path:
        if os.geteuid():
            for path in (folder, *folder.rglob("*")):
                stack.callback(path.chmod, 0o755)
                path.chmod(0o555)
            return folder
        for options in (["--bind", folder, folder], ["-o", "remount,bind,ro", folder]):
            if subprocess.run(["mount", *options], capture_output=True).returncode:
                pytest.skip("root writes everywhere, and may not mount here")
        stack.callback(subprocess.run, ["umount", folder], check=True)
        return folder

    with ExitStack() as stack:
        yield seal


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One for all pages, since Playwright runs once a process. Skips, with the reason, where there is none."""
    with ExitStack() as stack:
        try:
            launched = stack.enter_context(chromium())
        except LookupError as reason:
            pytest.skip(str(reason))
        yield launched


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_verb(here: Path) -> Command:
    """Runs a verb inside this process, which spares the seconds that the imports take: run_verb("train", "seed=1")."""
    return in_process


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """The trainings of the generators that need none, each as the words (process, images, template, seed)."""
    from tests.generators.tiny import TRAININGS

    record = tmp_path / "trainings.txt"
    monkeypatch.setenv(TRAININGS, str(record))
    return lambda: [line.split() for line in record.read_text().splitlines()] if record.is_file() else []
