"""Predictions at scale: a killed command loses and repeats nothing, and a watched folder is answered image by image."""

import csv
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_lite.data.decode import read_image
from anomalib_lite.engine import judging as judging_module
from anomalib_lite.engine.journal import JOURNAL
from anomalib_lite.engine.judging import Judging
from anomalib_lite.engine.predict import open_run
from anomalib_lite.engine.stream import Wanted, _Waiting, being_written, predict, watch
from anomalib_lite.errors import UserError
from tests.commands import Command
from tests.made import write_image


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def judging(smoke_run: Path) -> Judging:
    return Judging(open_run(smoke_run))


@pytest.fixture
def images(small_panels: Path, tmp_path: Path) -> list[Path]:
    for kind in ("good", "scratch", "stain"):
        shutil.copytree(small_panels / "test" / kind, tmp_path / "in" / kind)
    (tmp_path / "in/good/broken.png").write_bytes(b"no image")
    return sorted((tmp_path / "in").rglob("*.png"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_killed_command_goes_on_and_its_tables_are_those_of_one_that_was_not(
    judging: Judging, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read: list[Path] = []
    monkeypatch.setattr(judging_module, "read_image", lambda path, *a: read.append(path) or read_image(path, *a))
    whole = predict(judging, images, tmp_path / "whole", Wanted(overlays=False, maps=False))
    assert (whole.judged, len(whole.refused), whole.given) == (10, 1, 11)
    assert sorted(read) == images, "each image is read once"

    told: list[dict[str, Any]] = []

    def tell(answer: dict[str, Any]) -> None:
        told.append(answer)
        if len(told) == 4:
            raise Killed

    with pytest.raises(Killed):
        predict(judging, images, tmp_path / "out", Wanted(maps=False, overlays=False, told=tell))
    assert not (tmp_path / "out/predictions.csv").exists()
    with (tmp_path / "out" / JOURNAL).open("ab") as stream:
        stream.write(b'{"image": "cut o')
    first, told[:] = [answer["image"] for answer in told], []
    read.clear()
    wanted = Wanted(maps=False, overlays=False, told=told.append)
    assert predict(judging, images, tmp_path / "out", wanted) == whole
    assert not set(map(str, read)) & set(first) and len(read) == len(images) - len(first)
    assert [answer["image"] for answer in told] == [str(path) for path in images], "the first answers are told again"
    for name in ("predictions.csv", "defects.csv"):
        ours, theirs = rows(tmp_path / "out" / name), rows(tmp_path / "whole" / name)
        assert [row["image"] for row in ours] == [row["image"] for row in theirs]
        assert {row["image"] for row in ours} <= {str(path) for path in images}
    assert not (tmp_path / "out" / JOURNAL).exists()


def test_another_command_begins_anew(judging: Judging, images: list[Path], tmp_path: Path):
    def kill(_: dict[str, Any]) -> None:
        raise Killed

    with pytest.raises(Killed):
        predict(judging, images, tmp_path / "out", Wanted(overlays=False, told=kill))
    told: list[dict[str, Any]] = []
    predict(judging, images[:3], tmp_path / "out", Wanted(overlays=False, maps=False, told=told.append))
    assert len(told) == 3 and not list((tmp_path / "out/maps").rglob("*.tiff"))


def test_boxes_lie_in_the_files_own_pixels(judging: Judging, small_panels: Path):
    """A picture of three times the size has boxes of three times the size."""
    path = next(iter(sorted((small_panels / "test/stain").iterdir())))
    judged = judging.inspect(judging.judge([judging.open(path)])[0])
    record = judging.record(judged)
    large = judging_module.replace(
        judged, outcome=judging_module.replace(judged.outcome, image=np.zeros((288, 288, 3), np.uint8))
    )
    boxes = [defect["box_in_image"] for defect in record["defects"]]
    assert boxes and json.dumps(record)
    for own, triple in zip(boxes, judging.record(large)["defects"], strict=True):
        assert triple["box_in_image"] == pytest.approx([3 * side for side in own], abs=3)


def test_json_lines_are_all_that_stdout_gets(run_verb: Command, smoke_run: Path, images: list[Path], tmp_path: Path):
    done = run_verb("predict", f"run={smoke_run}", f"images={tmp_path}/in", "maps=false", "--json", "overlays=false")
    assert done.status == 3 and "11 images given: 10 judged, 1 refused" in done.err
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [answer["image"] for answer in answers] == [str(path) for path in images]
    assert [answer["image"] for answer in answers if "refused" in answer] == [str(tmp_path / "in/good/broken.png")]


@pytest.fixture
def watching(judging: Judging, tmp_path: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Starts a watch of tmp_path/camera, anew after an earlier one; gives the list of what it answers."""
    running: list[tuple[threading.Thread, threading.Event]] = []

    def end() -> None:
        for thread, stop in running:
            stop.set()
            thread.join(60)

    def start() -> list[dict[str, Any]]:
        end()
        told: list[dict[str, Any]] = []
        stop = threading.Event()
        wanted = Wanted(overlays=False, told=told.append)
        arguments = (judging, [tmp_path / "camera"], tmp_path / "out", wanted, stop, 0.2)
        running.append((threading.Thread(target=watch, args=arguments, daemon=True), stop))
        running[-1][0].start()
        return told

    start.end = end  # type: ignore[attr-defined]
    yield start
    end()


def wait_for(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_watched_folder_is_answered_once_also_after_a_restart(watching: Any, tmp_path: Path):
    write_image(tmp_path / "camera/a.png", 0, (96, 96))
    told = watching()
    wait_for(lambda: len(told) == 1)
    half = write_image(tmp_path / "next.png", 1, (96, 96)).read_bytes()
    with (tmp_path / "camera/b.png").open("wb") as stream:
        stream.write(half[:500])
        stream.flush()
        write_image(tmp_path / "camera/line2/a.png", 2, (96, 96))
        wait_for(lambda: len(told) == 2)
        assert told[1]["image"].endswith("line2/a.png"), "what is half written waits"
        stream.write(half[500:])
    wait_for(lambda: len(told) == 3)
    assert "refused" not in told[2] and told[2]["image"].endswith("b.png")
    again = watching()
    write_image(tmp_path / "camera/a.bmp", 3, (96, 96))
    wait_for(lambda: len(again) == 1)
    watching.end()
    assert [Path(row["image"]).name for row in rows(tmp_path / "out/predictions.csv")] == [
        "a.png", "a.png", "b.png", "a.bmp",
    ]  # fmt: skip
    maps = {p.relative_to(tmp_path / "out/maps").as_posix() for p in (tmp_path / "out/maps").rglob("*.tiff")}
    assert maps == {"a.tiff", "line2/a.tiff", "b.tiff", "a_bmp.tiff"}


def test_a_file_that_changes_or_is_open_is_not_settled(tmp_path: Path):
    waiting = _Waiting(0.01)
    path = tmp_path / "a.png"
    with path.open("wb") as stream:
        stream.write(b"a")
        stream.flush()
        assert not waiting.settled(path)
        time.sleep(0.02)
        if being_written(path):  # not every file system tells
            assert not waiting.settled(path)
    assert not being_written(path) and waiting.patient(path)
    path.write_bytes(b"another")
    assert not waiting.settled(path)
    time.sleep(0.02)
    assert waiting.settled(path)


def test_answers_do_not_fall_into_the_watched_folder(judging: Judging, tmp_path: Path):
    (tmp_path / "camera").mkdir()
    with pytest.raises(UserError, match="choose another one"):
        watch(judging, [tmp_path / "camera"], tmp_path / "camera/out", Wanted(), threading.Event())
