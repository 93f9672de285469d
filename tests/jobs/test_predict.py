"""The verb predict: the scores of the training's own evaluation, maps and overlays, and what cannot be read."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.commands import in_process, ran, read_json, read_rows, refused, scores
from tests.made import write_image

Words = Callable[..., list[str]]


def found_defects(folder: Path) -> list[tuple[str, ...]]:
    """Lines of defects.csv, less what depends on how an image is named."""
    keys = ("type", "grade", "severity", "area_px", "x", "y")
    return [tuple(row[key] for key in keys) for row in read_rows(folder / "defects.csv")]


@pytest.fixture
def predict(smoke_run, here) -> Words:
    """The words of a command: predict(images, "output=a"), where out/ is the output that is not named."""
    return lambda images, *more: ["predict", f"run={smoke_run}", f"images={images}", "output=out", *more]


@pytest.fixture(scope="module")
def trained(smoke_run) -> dict[str, float]:
    """The scores that the training measured."""
    return scores(smoke_run / "predictions.csv")


def test_scores_and_verdicts_are_those_of_the_training(predict, smoke_run, small_panels, here, trained):
    done = ran(*predict(f"'{small_panels}/test/*/*.png'", "maps=false", "overlays=false"))
    assert scores(here / "out/predictions.csv") == pytest.approx(trained, rel=1e-6) and len(trained) == 26
    assert found_defects(here / "out") == found_defects(smoke_run)
    threshold = read_json(smoke_run / "threshold.json")["image"]
    flagged = [float(r["score"]) for r in read_rows(here / "out/predictions.csv") if r["nok"] == "1"]
    assert all(score > threshold for score in flagged)
    assert f"{len(flagged)} of 26 images are above the threshold" in done.out
    assert sorted(p.name for p in (here / "out").iterdir()) == ["defects.csv", "defects.json", "predictions.csv"]


def test_a_score_does_not_depend_on_the_images_beside_it(predict, small_panels, here, trained):
    """One image alone, and three from other places in the order."""
    for folder, names in (("alone", ["stain/001"]), ("few", ["wrong_color/000", "good/005", "scratch/001"])):
        for name in names:
            (here / folder / name).parent.mkdir(parents=True)
            shutil.copy(small_panels / f"test/{name}.png", here / folder / f"{name}.png")
        ran(*predict(f"'{folder}/*/*'", "overlays=false"))
        expected = {f"{name}.png": trained[f"{name}.png"] for name in names}
        assert scores(here / "out/predictions.csv") == pytest.approx(expected, rel=1e-6)


def test_maps_are_as_they_are_used_overlays_in_the_images_size_and_unreadable_images_named(predict, small_panels, here):
    shutil.copytree(small_panels / "test/good", here / "images")
    cv2.imwrite("images/000.png", cv2.resize(cv2.imread("images/000.png"), (130, 170)))
    (here / "images/001.png").write_bytes(b"")
    (here / "images/zero.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    done = in_process(*predict("images"))
    assert done.status == 3 and "Traceback" not in done.err
    message = done.err.split("error: ")[-1]
    assert "2 of 7 images could not be read" in message and "images/001.png" in message and "zero.jpg" in message
    found = {Path(name).stem: score for name, score in scores(here / "out/predictions.csv").items()}
    assert found.keys() == {"000", "002", "003", "004", "005"}
    assert len(list((here / "out/maps").iterdir())) == len(list((here / "out/overlays").iterdir())) == 5
    for stem, score in found.items():
        heatmap = cv2.imread(f"out/maps/{stem}.tiff", cv2.IMREAD_UNCHANGED)
        assert heatmap.dtype == np.float32 and heatmap.shape == (96, 96) and heatmap.min() >= 0
        assert heatmap.max() == np.float32(score), "the score is the map's largest pixel"
        assert cv2.imread(f"out/overlays/{stem}.png").shape == ((170, 130, 3) if stem == "000" else (96, 96, 3))


def test_nothing_to_read_nothing_found_and_no_run_are_errors(predict, here):
    (here / "a.png").write_bytes(b"x")
    assert "None of the images can be read" in refused(*predict("a.png"))
    ran(*predict(str(write_image(here / "b.png", 1, (96, 96))), "output=kept"))
    refused(*predict("a.png", "output=kept"))
    assert len(scores(here / "kept/predictions.csv")) == 1 and (here / "kept/maps/b.tiff").exists()
    assert "No image found at nothing" in refused(*predict("nothing"))
    no_run = refused("predict", f"run={here}", "images=.", "output=out")
    assert "holds no finished training (config.yaml is missing)" in no_run
    assert not (here / "out").exists()


def test_equal_names_stay_apart_a_list_is_taken_and_the_home_folder_understood(predict, here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    for k, name in enumerate(("a/1.png", "b/1.png", "b/1.bmp", "c/2.png")):
        write_image(here / name, k, (96, 96))
    ran(*predict("[~/a, ~/b, c/2.png]", "overlays=false", "output='~/out'"))
    names = {p.relative_to(here / "out/maps").as_posix() for p in (here / "out/maps").rglob("*.tiff")}
    assert names == {"a/1.tiff", "b/1_png.tiff", "b/1_bmp.tiff", "c/2.tiff"}
    assert (here / "out/predictions.csv").is_file() and not (here / "~").exists()


def test_a_full_disk_is_an_error_and_leaves_no_empty_file(predict, here, monkeypatch):
    write_image(here / "a.png", 0, (96, 96))
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)  # what OpenCV does then
    assert "cannot be written" in refused(*predict("a.png"))
    assert [p for p in (here / "out").rglob("*") if p.is_file()] == [here / "out/.predictions"]


def test_results_of_two_calls_never_lie_mixed(predict, here):
    """What a second call does not make anew is gone; files of others stay; inputs are never removed."""
    for k, name in enumerate(("first", "second")):
        write_image(here / name / f"{name}.png", k, (96, 96))
        ran(*predict(name))
        (here / "out/notes.txt").write_text("mine")
    left = {p.stem for folder in ("overlays", "maps") for p in (here / "out" / folder).iterdir()}
    assert left == {"second"} and (here / "out/notes.txt").is_file()
    overlay = here / "out/overlays/second.png"
    assert "choose another output" in refused(*predict(overlay)) and overlay.is_file()


def test_the_threshold_can_be_another_rates_or_a_persons(predict, smoke_run, here):
    lowest = min(read_rows(smoke_run / "predictions.csv"), key=lambda row: float(row["score"]))
    words = predict(lowest["image"], "maps=false")
    done = ran(*words, f"threshold={float(lowest['score']) / 2}")
    assert read_rows(here / "out/predictions.csv")[0]["nok"] == "1" and "nothing is guaranteed" in done.out
    assert "at most 4" in ran(*words, "false_alarm_rate=0.5").out
    assert "Set either" in refused(*words, "threshold=1", "false_alarm_rate=0.5")
