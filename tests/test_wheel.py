"""The installed package works from an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.commands import REPOSITORY, one_thread

pytest.importorskip("hatchling", reason="building the wheel needs hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def files(folder: Path) -> set[str]:
    """Files below a folder of the checkout, relative to it, without what tools keep there."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {p.as_posix() for p in found if not any(part.startswith((".", "__pycache__")) for part in p.parts)}


def test_it_holds_all_that_the_checkout_holds(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {f"anomalib_lite/{name}" for name in files(REPOSITORY / "anomalib_lite")}
    conf = {f"anomalib_lite/conf/{name}" for name in files(REPOSITORY / "conf")}
    assert package <= names and conf <= names
    assert any(n.startswith("anomalib_lite/report/templates/") for n in names)
    assert any(n.startswith("anomalib_lite/annotate/static/") for n in names)
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"anomalib_lite"}, "nothing else is installed"


def test_installed_elsewhere_it_runs_from_an_empty_folder(wheel, tmp_path):
    """Its own modules and its own configuration, not the checkout's; and nothing is left behind."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    environment = one_thread(PYTHONPATH=str(site))

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=empty, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "from anomalib_lite import settings as c; print(c.__file__, c.conf_dir())"
    assert run("-c", where).split() == [str(site / "anomalib_lite" / name) for name in ("settings/__init__.py", "conf")]
    shown = yaml.safe_load(run(str(site / "bin" / "anomalib-lite"), "train", "--cfg", "job"))
    assert shown["detector"]["_target_"] == "anomalib_lite.detectors.fusion.Fusion"
    assert os.listdir(empty) == []
