"""Every file of conf/experiment/ trains: the first of its settings, in small."""

from pathlib import Path

import pytest
import yaml

from anomalib_lite.settings import conf_dir
from tests.commands import Command, read_json
from tests.data.test_deeppcb import write_pair
from tests.made import write_category

EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
SMALL = ["preset=smoke", "tracking=none", "image_size=48", "batch_size=4", "threads=1", "seed=0"]


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set in each layout that an experiment names."""
    root = tmp_path_factory.mktemp("sets")
    for name in ("mtd", "mvtec_ad/bottle"):
        write_category(root / name, train=10, good=3, defects={"broken_large": 2})
    boards = root / "deeppcb"
    lists = {"trainval": range(6), "test": range(6, 8)}
    for name, numbers in lists.items():
        lines = [write_pair(boards, number, "30 30 60 60 1\n") for number in numbers]
        (boards / f"{name}.txt").write_text("".join(lines))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_trains(
    name: str, sets: Path, run_verb: Command, artifacts: Path, small_panels: Path, tmp_path: Path
) -> None:
    text = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    swept = yaml.safe_load(text).get("hydra", {}).get("sweeper", {}).get("params", {})
    first = [f"{key}={str(values).split(',')[0]}" for key, values in swept.items() if key not in ("seed", "data.shots")]
    data = next((known for known in ("mtd", "mvtec_ad", "deeppcb") if f"/data: {known}" in text), None)
    place = [f"data.root={sets / data}"] if data else []
    done = run_verb("train", f"experiment={name}", *SMALL, *first, *place, f"paths.artifacts={artifacts}")
    assert done.status == 0, done.err
    (run,) = (tmp_path / "runs").glob("*/*")
    assert read_json(run / "status.json")["state"] == "done"
    assert 0 <= read_json(run / "metrics.json")["pixel_auroc"] <= 1
