"""The notebooks' code runs from top to bottom on a run as `anomalib-lite train` leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pytest

from tests.commands import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_run_in_order(path: Path, smoke_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANOMALIB_LITE_RUN", str(smoke_run))
    matplotlib.use("Agg")
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    space: dict = {}
    for cell in cells:
        assert cell["outputs"] == [], "notebooks are kept without outputs"
        exec(compile("".join(cell["source"]), str(path), "exec"), space)
    row = space["predictions"].loc[space["worst"]]
    assert space["found"].score[0].item() == pytest.approx(row.score, rel=1e-5)
    assert space["splits"].test[space["worst"]].image.name == Path(row.image).name
