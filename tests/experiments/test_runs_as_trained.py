"""What experiments and benchmarks show of a run is what the run itself measured."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.settings import conf_dir
from benchmarks.defects import by_detector
from experiments.side_by_side import blocks, results_of
from tests.commands import Command, read_json
from tests.made import write_image, write_mask


@pytest.fixture
def run(run_verb: Command, tmp_path: Path) -> RunFolder:
    """Of two products on wide images, which a letterbox pads, each with a threshold of its own."""
    for seed, (product, size) in enumerate({"bolt": (40, 80), "cable": (64, 96)}.items()):
        folder = tmp_path / "sets" / product
        for k in range(12):
            write_image(folder / f"train/good/{k:03d}.png", 100 * seed + k, size)
        for kind in ("good", "mark"):
            write_image(folder / f"test/{kind}/000.png", 100 * seed + 50, size, mark=kind == "mark")
        write_mask(folder / "ground_truth/mark/000_mask.png", size)
    asked = [
        "data=mvtec_ad",
        f"data.root={tmp_path}/sets",
        "data.category=[bolt,cable]",
        "detector=padim",
        "resize=letterbox",
    ]
    small = ["image_size=64", "batch_size=4", "threads=1", "tracking=none", "seed=0", "backbone.weights=none"]
    done = run_verb("train", *asked, *small, "scoring.blur.sigma=2")
    assert done.status == 0, done.err
    (folder,) = (tmp_path / "runs").glob("*/*")
    return RunFolder(folder)


def test_scores_verdicts_and_defects_are_those_of_the_run(run: RunFolder):
    thresholds, outcomes = results_of(run.path)
    assert {outcome.sample.category for outcome in outcomes} == {*thresholds.categories} == {"bolt", "cable"}
    told = {row["image"]: row for row in run.predictions()}
    for outcome in outcomes:
        row = told[str(outcome.sample.image)]
        assert (outcome.score, outcome.nok) == (pytest.approx(row["score"], rel=1e-4), bool(row["nok"]))
    shares = [f"{o.score / thresholds.of(o.sample.category).image:.2f} × threshold" for o in outcomes]
    drawn = blocks(["run"], [(thresholds, outcomes)])[1::2]
    assert [block.right.partition(":")[0] for block in drawn] == shares

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train").defects, resolve=True)
    found = {
        str(sample.image): [d.record() for d in defects] for sample, _, defects in by_detector(config, run.path)[2]
    }
    recorded = {entry["image"]: entry["defects"] for entry in read_json(run.path / "defects.json")["images"]}
    assert any(recorded.values()) and {*found} == {*recorded}
    for image, defects in recorded.items():
        assert [defect["box"] for defect in found[image]] == [defect["box"] for defect in defects]
