"""Runs that grow: OK images added to a trained run, defects that were missed, OK folders that hold some NOK."""

import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.engine.build import build_data, build_model
from anomalib_lite.runs.folder import RunFolder
from tests.commands import read_json, read_rows, trained
from tests.made import write_category


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """folder/old and folder/new hold ten OK images each, folder/nok two defects."""
    folder = tmp_path_factory.mktemp("halves")
    made = write_category(folder / "all", train=20, good=3, defects={"dot": 2})
    for k, image in enumerate(sorted((made / "train/good").iterdir())):
        target = folder / ("old" if k < 10 else "new") / image.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(image, target)
    shutil.copytree(made / "test/dot", folder / "nok/dot")
    return folder


SMALL = ["preset=smoke", "tracking=none", "threads=1", "image_size=48", "batch_size=4", "defects=none", "data=folder"]


@pytest.mark.parametrize(
    "detector", [["padim"], ["patchcore"], ["stfpm", "detector.gaussian.choose=levels"]], ids=lambda d: d[0]
)
def test_a_run_with_images_added_is_what_all_at_once_would_have_given(run_verb, halves, tmp_path, detector):
    name, *more = detector
    own = [*SMALL, f"detector={name}", *more, f"data.ok={halves}/old", f"data.nok={halves}/nok"]
    first = trained(*own)
    grown = trained(f"start_from={first}", "data=folder", f"data.ok={halves}/new", "threads=1", "tracking=none")
    assert grown.name.startswith(first.name.rpartition("-")[0] + "-more-")
    learned = read_json(grown / "data.json")["learned"]
    assert {Path(p).parent.name for p in learned.values()} == {"old", "new"}
    held_out = [read_json(run / "threshold.json")["n"] for run in (first, grown)]
    assert held_out[1] == 2 * held_out[0]

    again = run_verb("evaluate", f"run={grown}", "output=again", "report=false")  # its data are found again
    assert again.status == 0, again.err
    figures = [read_json(f / "metrics.json")["image_auroc"] for f in (grown, tmp_path / "again")]
    assert figures[0] == figures[1]
    if name == "stfpm":  # its student was trained on the first images alone
        student = [
            {k: v for k, v in load_file(run / "model.safetensors").items() if "student" in k} for run in (first, grown)
        ]
        assert student[0] and all((student[0][k] == student[1][k]).all() for k in student[0])
        return
    config = OmegaConf.create(RunFolder(grown).config)
    splits = build_data(config.data)
    at_once = build_model(config)
    images = loader(ImageSet(splits.train, (48, 48)), 4)
    at_once.prepare(images)
    at_once.calibrate(images)
    saved = load_file(grown / "model.safetensors")
    for key, value in at_once.state_dict().items():
        assert value.shape == saved[key].shape and torch.allclose(value, saved[key], rtol=0, atol=1e-5), key


def test_settings_of_a_run_that_grows_are_its_own(run_verb, halves, tmp_path):
    first = trained(*SMALL, "detector=padim", f"data.ok={halves}/old", f"data.nok={halves}/nok")
    refused = run_verb("train", f"start_from={first}", "data=folder", f"data.ok={halves}/new", "image_size=64")
    assert refused.status == 2 and "image_size cannot be changed" in refused.err
    shutil.move(halves / "old", halves / "away")
    try:
        gone = run_verb("train", f"start_from={first}", "data=folder", f"data.ok={halves}/new")
    finally:
        shutil.move(halves / "away", halves / "old")
    assert gone.status == 2 and "old" in gone.err


def test_missed_defects_lower_the_threshold_and_the_run_says_what_that_costs(run_verb, halves, tmp_path):
    own = [*SMALL, "detector=padim", f"data.ok={halves}/old", f"data.nok={halves}/nok"]
    plain = trained(*own)
    passed = sorted((halves / "new").iterdir())[0]  # an OK image that a person calls NOK lies low among the scores
    lowered = trained(*own, f"missed={passed}")
    before, after = (read_json(run / "threshold.json") for run in (plain, lowered))
    assert plain != lowered
    if after["given"]:
        assert after["image"] < before["image"] and "was lowered" in after["note"]
        assert after["promised_rate"] >= before["promised_rate"]
    done = run_verb("predict", f"run={lowered}", f"images={passed}", "output=out", "maps=false")
    assert done.status == 0, done.err
    assert (tmp_path / "out/predictions.csv").read_text().splitlines()[1].endswith(",1")
    easy = trained(*own, f"missed={halves}/nok/dot")
    assert read_json(easy / "threshold.json")["image"] == before["image"]
    assert read_json(easy / "metrics.json")["per_defect"] == {}  # what sets a threshold tests nothing
    fused = trained(*own, "detector=fusion", f"missed={halves}/nok/dot")
    assert "2 NOK images" in read_json(fused / "status.json")["choice"]["words"]


def test_review_shows_a_defect_among_the_ok_images_first_and_training_can_leave_it_out(run_verb, halves, tmp_path):
    folder = tmp_path / "mixed"
    for part in ("old", "new"):
        shutil.copytree(halves / part, folder, dirs_exist_ok=True)
    bad = sorted((halves / "nok/dot").iterdir())[0]
    shutil.copy(bad, folder / "zz_bad.png")
    done = run_verb("review", "data=folder", f"data.ok={folder}", "image_size=48", "threads=1")
    assert done.status == 0, done.err
    rows = read_rows(tmp_path / "review/predictions.csv")
    given = sorted(p.name for p in folder.iterdir())
    assert sorted(Path(r["image"]).name for r in rows) == given
    assert Path(rows[0]["image"]).name == "zz_bad.png" and (tmp_path / "review/worst.png").is_file()

    run = trained(*SMALL, "detector=padim", f"data.ok={folder}", "data.test_ok_share=0", "contamination=0.04")
    status = read_json(run / "status.json")
    assert [Path(p).name for p in status["left_out"]] == ["zz_bad.png"]
    assert "left out" in read_json(run / "threshold.json")["note"]
