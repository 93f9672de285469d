from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_lite.annotate.crops import Crop
from anomalib_lite.annotate.scores import Score, read_scores
from anomalib_lite.errors import UserError


def crops(*keys: str) -> list[Crop]:
    return [Crop(str(i), key, Path("/data/crops") / key) for i, key in enumerate(keys)]


def write(folder: Path, *rows: str, header: str = "image,label,defect,score,nok") -> Path:
    path = folder / "predictions.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_scores_are_found_by_name_in_a_file_or_a_run_folder(tmp_path: Path) -> None:
    path = write(tmp_path, "/elsewhere/a.png,1,scratch,0.75,True", "b.png,,,0.5,0", "c.png,,,0.25,")
    expected = {"a.png": Score(0.75, True), "x/b.png": Score(0.5, False), "c.png": Score(0.25, None)}
    assert read_scores(path, crops("a.png", "x/b.png", "c.png", "unknown.png")) == expected
    assert read_scores(tmp_path, crops("a.png", "x/b.png", "c.png")) == expected


def test_namesakes_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    path = write(tmp_path, "/old/good/0.png,,,0.1,0", "/old/bad/0.png,,,0.9,1")
    assert {k: s.value for k, s in read_scores(path, crops("bad/0.png", "good/0.png")).items()} == {
        "bad/0.png": 0.9,
        "good/0.png": 0.1,
    }


def test_a_score_is_not_given_to_a_namesake_it_does_not_speak_of(tmp_path: Path) -> None:
    path = write(tmp_path, "run/good/0.png,,,0.1,0", "1.png,,,0.5,0", "a/2.png,,,0.1,0", "b/2.png,,,0.2,0")
    found = read_scores(path, crops("good/0.png", "bad/0.png", "good/1.png", "bad/1.png", "c/2.png"))
    assert list(found) == ["good/0.png"]


def test_scores_that_are_not_finite_say_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png,,,nan,0", "b.png,,,0.5,0")
    assert list(read_scores(path, crops("a.png", "b.png"))) == ["b.png"]


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("image,label", "a.png,1", "no column score"),
        ("image,score", "a.png,high", "line 2.*'high'"),
        ("image,score", "other.png,0.5", "None of the 1 crops"),
    ],
)
def test_an_unfit_file_says_why(tmp_path: Path, header: str, row: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_scores(write(tmp_path, row, header=header), crops("a.png"))


def test_a_folder_without_predictions_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scores="):
        read_scores(tmp_path, crops("a.png"))
