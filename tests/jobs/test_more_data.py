"""Runs that grow: OK images added to a trained run, defects that were missed, OK folders that hold some NOK."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.engine.build import build_data, build_model
from anomalib_lite.runs.folder import RunFolder
from tests.commands import ran, read_json, read_rows, refused, scores, trained
from tests.made import picture, write_category, write_pixels


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
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


def asked(halves: Path, detector: str = "padim") -> list[str]:
    return [*SMALL, f"detector={detector}", f"data.ok={halves}/old", f"data.nok={halves}/nok"]


@pytest.fixture(scope="module")
def plain(halves, tmp_path_factory) -> Path:
    """A run of the old images. Read only."""
    place = tmp_path_factory.mktemp("plain")
    return trained(*asked(halves), f"paths.runs={place}", f"paths.artifacts={place}")


def more(first: Path, halves: Path) -> list[str]:
    return [f"start_from={first}", "data=folder", f"data.ok={halves}/new", "threads=1", "tracking=none"]


@pytest.mark.parametrize("detector", ["padim", "patchcore", "stfpm"])
def test_a_run_with_images_added_is_what_all_at_once_would_have_given(here, halves, plain, detector):
    own = [*asked(halves, detector), *["detector.gaussian.choose=levels"] * (detector == "stfpm")]
    first = plain if detector == "padim" else trained(*own)
    grown = trained(*more(first, halves))
    assert grown.name.startswith(first.name.rpartition("-")[0] + "-more-")
    learned = read_json(grown / "data.json")["learned"]
    assert {Path(p).parent.name for p in learned.values()} == {"old", "new"}
    held_out = [read_json(run / "threshold.json")["n"] for run in (first, grown)]
    assert held_out[1] == 2 * held_out[0]

    ran("evaluate", f"run={grown}", "output=again", "report=false")  # its data are found again
    figures = [read_json(f / "metrics.json")["image_auroc"] for f in (grown, here / "again")]
    assert figures[0] == figures[1]
    saved = load_file(grown / "model.safetensors")
    if detector == "stfpm":  # its student was trained on the first images alone
        student = {key: value for key, value in load_file(first / "model.safetensors").items() if "student" in key}
        assert student and all((saved[key] == value).all() for key, value in student.items())
        return
    config = OmegaConf.create(RunFolder(grown).config)
    at_once = build_model(config)
    images = loader(ImageSet(build_data(config.data).train, (48, 48)), 4)
    at_once.prepare(images)
    at_once.calibrate(images)
    for key, value in at_once.state_dict().items():
        assert value.shape == saved[key].shape and torch.allclose(value, saved[key], rtol=0, atol=1e-5), key


def test_settings_of_a_run_that_grows_are_its_own(here, halves, plain):
    assert "image_size cannot be changed" in refused("train", *more(plain, halves), "image_size=64")
    shutil.move(halves / "old", halves / "away")
    try:
        assert "old" in refused("train", *more(plain, halves))
    finally:
        shutil.move(halves / "away", halves / "old")


def test_missed_defects_lower_the_threshold_and_the_run_says_what_that_costs(here, halves, plain):
    passed = sorted((halves / "new").iterdir())[0]  # an OK image that a person calls NOK lies low among the scores
    lowered = trained(*asked(halves), f"missed={passed}")
    before, after = (read_json(run / "threshold.json") for run in (plain, lowered))
    assert plain.name != lowered.name
    if after["given"]:
        assert after["image"] < before["image"] and "was lowered" in after["note"]
        assert after["promised_rate"] >= before["promised_rate"]
    ran("predict", f"run={lowered}", f"images={passed}", "output=out", "maps=false")
    assert (here / "out/predictions.csv").read_text().splitlines()[1].endswith(",1")
    for verb in (["predict", f"images={passed}"], ["evaluate"]):
        assert "set output to another folder" in refused(*verb, f"run={lowered}", f"output={lowered}")
    assert "missed=null" in refused("train", *more(lowered, halves))
    easy = trained(*asked(halves), f"missed={halves}/nok/dot")
    assert read_json(easy / "threshold.json")["image"] == before["image"]
    assert read_json(easy / "metrics.json")["per_defect"] == {}  # what sets a threshold tests nothing
    fused = trained(*asked(halves, "fusion"), f"missed={halves}/nok/dot")
    assert "2 NOK images" in read_json(fused / "status.json")["choice"]["words"]


def test_16_bit_images_are_read_with_the_runs_depth_at_every_step(here):
    """Those that it is evaluated on, and one that it missed, do not show that depth."""
    for k in range(13):
        folder, brightest = ("ok", 16500) if k < 10 else ("dark", 16300)
        pixels = picture(k).astype(float)
        write_pixels(here / f"{folder}/{k}.png", (pixels * brightest / pixels.max()).astype(np.uint16))
    run = trained(*SMALL, "detector=padim", "data.ok=ok", "missed=dark/10.png")
    ran("predict", f"run={run}", "images=dark", "output=out", "maps=false")
    predicted = scores(here / "out/predictions.csv")
    assert predicted.pop("dark/10.png") == pytest.approx(read_json(run / "threshold.json")["image"], rel=1e-5)
    words = ["evaluate", f"run={run}", "data=folder", "data.test_ok=dark/11.png", "data.nok=dark/12.png"]
    ran(*words, "output=again", "report=false")
    assert scores(here / "again/predictions.csv") == pytest.approx(predicted, rel=1e-5)
    assert "data.bits=14 is not the bit depth" in refused(*words, "data.bits=14")
    ran("evaluate", f"run={run}", "output=own", "report=false")


def test_review_shows_a_defect_among_the_ok_images_first_and_training_can_leave_it_out(here, halves):
    for part in ("old", "new"):
        shutil.copytree(halves / part, here / "mixed", dirs_exist_ok=True)
    shutil.copy(sorted((halves / "nok/dot").iterdir())[0], here / "mixed/zz_bad.png")
    ran("review", "data=folder", "data.ok=mixed", "image_size=48", "threads=1")
    names = [Path(row["image"]).name for row in read_rows(here / "review/predictions.csv")]
    assert sorted(names) == sorted(p.name for p in (here / "mixed").iterdir())
    assert names[0] == "zz_bad.png" and (here / "review/worst.png").is_file()

    mixed = [*SMALL, "detector=stfpm", "data.ok=mixed", "data.test_ok_share=0"]
    trained(*mixed)
    run = trained(*mixed, "contamination=0.04")
    assert len(list(here.glob("artifacts/trained-*"))) == 2, "not the student of all images again"
    assert [Path(p).name for p in read_json(run / "status.json")["left_out"]] == ["zz_bad.png"]
    assert "left out" in read_json(run / "threshold.json")["note"]
