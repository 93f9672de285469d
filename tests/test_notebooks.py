"""The notebooks' code runs from top to bottom on a run as `anomalib-lite train` leaves it."""

import json
from pathlib import Path

import matplotlib
import pytest

from tests.commands import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"


def run_cells(path: Path) -> dict:
    """The names that the code cells leave behind."""
    matplotlib.use("Agg")
    space: dict = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "notebooks are kept without outputs"
            exec(compile("".join(cell["source"]), str(path), "exec"), space)
    return space


def test_a_finished_run_by_hand(smoke_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANOMALIB_LITE_RUN", str(smoke_run))
    space = run_cells(NOTEBOOKS / "a_finished_run.ipynb")
    row = space["predictions"].loc[space["worst"]]
    assert space["found"].score[0].item() == pytest.approx(row.score, rel=1e-5)
    assert space["splits"].test[space["worst"]].image.name == Path(row.image).name


@pytest.mark.slow
def test_the_walk_from_panels_to_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANOMALIB_LITE_PRESET", "smoke")
    monkeypatch.chdir(tmp_path)
    space = run_cells(NOTEBOOKS / "walkthrough.ipynb")
    assert len(space["outcomes"]) == len(space["nok"]) and space["student"].metrics["image_auroc"] is not None
    assert {"type", "severity"} <= set(space["defects"].columns)
    assert "Comparison of 3 runs" in (tmp_path / "walk/comparison/compare.md").read_text()
