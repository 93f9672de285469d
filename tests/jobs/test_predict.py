"""The verb predict: the scores of the training's own evaluation, maps and overlays, and what cannot be read."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.commands import Command, Outcome, read_rows, scores
from tests.made import write_image


def found_defects(folder: Path) -> list[tuple[str, ...]]:
    """Lines of defects.csv, less what depends on how an image is named."""
    keys = ("type", "grade", "severity", "area_px", "x", "y")
    return [tuple(row[key] for key in keys) for row in read_rows(folder / "defects.csv")]


def predict(run_verb: Command, run: Path, images: Path | str, output: Path, *overrides: str) -> Outcome:
    return run_verb("predict", f"run={run}", f"images={images}", f"output={output}", *overrides)


@pytest.fixture(scope="module")
def trained(smoke_run: Path) -> dict[str, float]:
    """The scores that the training measured."""
    return scores(smoke_run / "predictions.csv")


def test_scores_and_verdicts_are_those_of_the_training(
    run_verb: Command, smoke_run: Path, small_panels: Path, tmp_path: Path, trained: dict[str, float]
):
    done = predict(
        run_verb, smoke_run, f"'{small_panels}/test/*/*.png'", tmp_path / "out", "maps=false", "overlays=false"
    )
    assert done.status == 0, done.err
    assert scores(tmp_path / "out/predictions.csv") == pytest.approx(trained, rel=1e-6) and len(trained) == 26
    threshold = json.loads((smoke_run / "threshold.json").read_text())["image"]
    assert found_defects(tmp_path / "out") == found_defects(smoke_run)
    flagged = [r for r in read_rows(tmp_path / "out/predictions.csv") if r["nok"] == "1"]
    assert [float(r["score"]) > threshold for r in flagged] == [True] * len(flagged)
    assert f"{len(flagged)} of 26 images are above the threshold" in done.out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["defects.csv", "defects.json", "predictions.csv"]


def test_a_score_does_not_depend_on_the_images_beside_it(
    run_verb: Command, smoke_run: Path, small_panels: Path, tmp_path: Path, trained: dict[str, float]
):
    """One image alone, and three from other places in the order."""
    alone, few = tmp_path / "alone", tmp_path / "few"
    for folder, names in ((alone, ["stain/001"]), (few, ["wrong_color/000", "good/005", "scratch/001"])):
        for name in names:
            (folder / name).parent.mkdir(parents=True)
            shutil.copy(small_panels / f"test/{name}.png", folder / f"{name}.png")
        assert predict(run_verb, smoke_run, f"'{folder}/*/*'", tmp_path / "out", "overlays=false").status == 0
        for name, score in scores(tmp_path / "out/predictions.csv").items():
            assert score == pytest.approx(trained[name], rel=1e-6), name


def test_maps_are_written_as_they_are_used_and_overlays_in_the_images_size(
    run_verb: Command, smoke_run: Path, small_panels: Path, tmp_path: Path
):
    images = tmp_path / "images"
    shutil.copytree(small_panels / "test/good", images / "good")
    large = cv2.resize(cv2.imread(str(images / "good/000.png")), (130, 170))
    cv2.imwrite(str(images / "good/000.png"), large)
    assert predict(run_verb, smoke_run, images / "good", tmp_path / "out").status == 0
    for name, score in scores(tmp_path / "out/predictions.csv").items():
        stem = Path(name).stem
        heatmap = cv2.imread(str(tmp_path / f"out/maps/{stem}.tiff"), cv2.IMREAD_UNCHANGED)
        assert heatmap.dtype == np.float32 and heatmap.shape == (96, 96) and heatmap.min() >= 0
        assert heatmap.max() == np.float32(score), "the score is the map's largest pixel"
        overlay = cv2.imread(str(tmp_path / f"out/overlays/{stem}.png"))
        assert overlay.shape == ((170, 130, 3) if stem == "000" else (96, 96, 3))


def test_images_that_cannot_be_read_are_named_and_the_rest_is_written(
    run_verb: Command, smoke_run: Path, small_panels: Path, tmp_path: Path
):
    images = tmp_path / "images"
    shutil.copytree(small_panels / "test/good", images)
    (images / "001.png").write_bytes(b"")
    (images / "zero.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    done = predict(run_verb, smoke_run, images, tmp_path / "out")
    assert done.status == 3 and "Traceback" not in done.err
    message = done.err.split("error: ")[-1]
    assert "2 of 7 images could not be read" in message
    assert str(images / "001.png") in message and str(images / "zero.jpg") in message
    written = {Path(name).name for name in scores(tmp_path / "out/predictions.csv")}
    assert written == {"000.png", "002.png", "003.png", "004.png", "005.png"}
    assert len(list((tmp_path / "out/maps").iterdir())) == len(list((tmp_path / "out/overlays").iterdir())) == 5


def test_nothing_to_read_nothing_found_and_no_run_are_errors(run_verb: Command, smoke_run: Path, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"x")
    none = predict(run_verb, smoke_run, tmp_path / "a.png", tmp_path / "out")
    assert none.status == 2 and "None of the images can be read" in none.err
    absent = predict(run_verb, smoke_run, tmp_path / "nothing", tmp_path / "out")
    assert absent.status == 2 and f"No image found at {tmp_path / 'nothing'}" in absent.err
    no_run = predict(run_verb, tmp_path, tmp_path, tmp_path / "out")
    assert no_run.status == 2 and "holds no finished training (config.yaml is missing)" in no_run.err
    assert not (tmp_path / "out").exists()


def test_equal_names_stay_apart_and_a_list_of_images_is_taken(run_verb: Command, smoke_run: Path, tmp_path: Path):
    for k, name in enumerate(("a/1.png", "b/1.png", "b/1.bmp", "c/2.png")):
        write_image(tmp_path / name, k, (96, 96))
    listed = f"[{tmp_path}/a, {tmp_path}/b, {tmp_path}/c/2.png]"
    assert predict(run_verb, smoke_run, listed, tmp_path / "out", "overlays=false").status == 0
    names = {p.relative_to(tmp_path / "out/maps").as_posix() for p in (tmp_path / "out/maps").rglob("*.tiff")}
    assert names == {"a/1.tiff", "b/1_png.tiff", "b/1_bmp.tiff", "c/2.tiff"}


def test_a_full_disk_is_an_error_and_leaves_no_empty_file(
    run_verb: Command, smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    image = write_image(tmp_path / "a.png", 0, (96, 96))
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)  # what OpenCV does then
    done = predict(run_verb, smoke_run, image, tmp_path / "out")
    assert done.status == 2 and "cannot be written" in done.err
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [tmp_path / "out/.predictions"]


def test_the_home_folder_is_understood(run_verb: Command, smoke_run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_image(tmp_path / "photos/a.png", 0, (96, 96))
    assert predict(run_verb, smoke_run, "'~/photos'", "'~/out'").status == 0
    assert (tmp_path / "out/predictions.csv").is_file() and not (tmp_path / "~").exists()


def test_results_of_two_calls_never_lie_mixed(run_verb: Command, smoke_run: Path, tmp_path: Path):
    """What a second call does not make anew is gone; files of others stay; inputs are never removed."""
    images = [write_image(tmp_path / name / f"{name}.png", k, (96, 96)) for k, name in enumerate(("first", "second"))]
    assert predict(run_verb, smoke_run, images[0], tmp_path / "out").status == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert predict(run_verb, smoke_run, images[1], tmp_path / "out").status == 0
    left = {p.stem for folder in ("overlays", "maps") for p in (tmp_path / "out" / folder).iterdir()}
    assert left == {"second"} and (tmp_path / "out" / "notes.txt").is_file()
    overlay = tmp_path / "out" / "overlays" / "second.png"
    done = predict(run_verb, smoke_run, overlay, tmp_path / "out")
    assert done.status == 2 and "choose another output" in done.err and overlay.is_file()


def test_the_threshold_can_be_another_rates_or_a_persons(run_verb: Command, smoke_run: Path, tmp_path: Path):
    image, score = min(scores(smoke_run / "predictions.csv").items(), key=lambda item: item[1])
    path = next(r["image"] for r in read_rows(smoke_run / "predictions.csv") if r["image"].endswith(image))
    done = predict(run_verb, smoke_run, path, tmp_path / "a", "maps=false", f"threshold={score / 2}")
    assert done.status == 0, done.err
    assert read_rows(tmp_path / "a/predictions.csv")[0]["nok"] == "1"
    assert "nothing is guaranteed" in done.out
    done = predict(run_verb, smoke_run, path, tmp_path / "b", "maps=false", "false_alarm_rate=0.5")
    assert done.status == 0 and "at most 4" in done.out, done.out
    refused = predict(run_verb, smoke_run, path, tmp_path / "c", "threshold=1", "false_alarm_rate=0.5")
    assert refused.status == 2 and "Set either" in refused.err
