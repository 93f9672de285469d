"""Predictions at scale: a killed command loses and repeats nothing, and a watched folder is answered image by image."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anomalib_lite.data.decode import read_image
from anomalib_lite.engine import predict as predict_module
from anomalib_lite.engine.journal import JOURNAL
from anomalib_lite.engine.predict import TrainedRun, open_run
from anomalib_lite.engine.stream import Outputs, _name, _Waiting, being_written, predict, watch
from anomalib_lite.errors import UserError
from tests.commands import read_rows
from tests.made import write_image


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def trained(smoke_run):
    return open_run(smoke_run)


@pytest.fixture
def images(small_panels, tmp_path):
    for kind in ("good", "scratch", "stain"):
        shutil.copytree(small_panels / "test" / kind, tmp_path / "in" / kind)
    (tmp_path / "in/good/broken.png").write_bytes(b"no image")
    return sorted((tmp_path / "in").rglob("*.png"))


def test_a_killed_command_goes_on_and_its_tables_are_those_of_one_that_was_not(trained, images, tmp_path, monkeypatch):
    """Other commands that were killed in the same folder before leave nothing there, not even those of other images."""
    read: list[Path] = []
    monkeypatch.setattr(predict_module, "read_image", lambda path, *a: read.append(path) or read_image(path, *a))
    whole = predict(trained, images, tmp_path / "whole", Outputs(overlays=False, maps=False))
    assert (whole.judged, len(whole.refused), whole.given) == (10, 1, 11)
    assert sorted(read) == images, "each image is read once"

    told: list[dict[str, Any]] = []
    other = write_image(tmp_path / "in/good/zz.png", 0, (96, 96))

    def until(count: int) -> Callable[[dict[str, Any]], None]:
        def tell(answer: dict[str, Any]) -> None:
            told.append(answer)
            if len(told) == count:
                raise Killed

        return tell

    for count, maps, chosen in ((1, True, images), (2, False, [other, *images]), (7, False, images)):
        with pytest.raises(Killed):
            predict(trained, chosen, tmp_path / "out", Outputs(maps=maps, overlays=False, on_answer=until(count)))
    assert not list((tmp_path / "out/maps").rglob("*.tiff"))
    assert not (tmp_path / "out/predictions.csv").exists()
    with (tmp_path / "out" / JOURNAL).open("ab") as stream:
        stream.write(b'{"image": "cut o')
    first, told[:] = [answer["image"] for answer in told[2:]], []
    read.clear()
    wanted = Outputs(maps=False, overlays=False, on_answer=told.append)
    assert predict(trained, images, tmp_path / "out", wanted) == whole
    assert not set(map(str, read)) & set(first) and len(read) == len(images) - len(first)
    assert [answer["image"] for answer in told] == [str(path) for path in images], "the first answers are told again"
    for name in ("predictions.csv", "defects.csv"):
        ours, theirs = read_rows(tmp_path / "out" / name), read_rows(tmp_path / "whole" / name)
        assert [row["image"] for row in ours] == [row["image"] for row in theirs]
    assert not (tmp_path / "out" / JOURNAL).exists()


def test_pictures_of_others_are_neither_written_over_nor_removed(trained, images, tmp_path):
    mine = write_image(tmp_path / "data/defects/mine.png", 0, (96, 96))
    with pytest.raises(UserError, match="no prediction wrote"):
        predict(trained, images, tmp_path / "data", Outputs(maps=False))
    assert mine.is_file() and not (tmp_path / "data/overlays").exists()


def test_equal_names_of_several_cameras_stay_apart():
    journal, folders = SimpleNamespace(names={}), [Path(f"camera{k}") for k in range(5)]
    assert len({_name(folder / "1.png", folder, journal) for folder in folders}) == 5


def test_boxes_lie_in_the_files_own_pixels(trained, small_panels):
    """A picture of three times the size has boxes of three times the size."""
    path = min((small_panels / "test/stain").iterdir())
    judged = trained.inspect(trained.answers([trained.open(path)])[0])
    large = replace(judged, outcome=replace(judged.outcome, image=np.zeros((288, 288, 3), np.uint8)))
    own, triple = (trained.record(one)["defects"] for one in (judged, large))
    assert own and json.dumps(own)
    for small, big in zip(own, triple, strict=True):
        assert big["box_in_image"] == pytest.approx([3 * side for side in small["box_in_image"]], abs=3)


def test_json_lines_are_all_that_stdout_gets(run_verb, smoke_run, images, tmp_path):
    done = run_verb("predict", f"run={smoke_run}", f"images={tmp_path}/in", "maps=false", "--json", "overlays=false")
    assert done.status == 3 and "11 images given: 10 judged, 1 refused" in done.err
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [answer["image"] for answer in answers] == [str(path) for path in images]
    assert [answer["image"] for answer in answers if "refused" in answer] == [str(tmp_path / "in/good/broken.png")]


@contextmanager
def watching(trained: TrainedRun, folder: Path) -> Iterator[list[dict[str, Any]]]:
    """A watch of folder/camera; gives the list of what it answers."""
    told: list[dict[str, Any]] = []
    stop = threading.Event()
    wanted = Outputs(overlays=False, on_answer=told.append)
    arguments = (trained, [folder / "camera"], folder / "out", wanted, stop, 0.2)
    thread = threading.Thread(target=watch, args=arguments, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        stop.set()
        thread.join(60)


def wait_for(told: list[dict[str, Any]], count: int) -> None:
    until = time.monotonic() + 60
    while len(told) < count:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_watched_folder_is_answered_once_also_after_a_restart(trained, tmp_path):
    write_image(tmp_path / "camera/a.png", 0, (96, 96))
    half = write_image(tmp_path / "next.png", 1, (96, 96)).read_bytes()
    with watching(trained, tmp_path) as told:
        wait_for(told, 1)
        with (tmp_path / "camera/b.png").open("wb") as stream:
            stream.write(half[:500])
            stream.flush()
            write_image(tmp_path / "camera/line2/a.png", 2, (96, 96))
            wait_for(told, 2)
            assert told[1]["image"].endswith("line2/a.png"), "what is half written waits"
            stream.write(half[500:])
        wait_for(told, 3)
    assert "refused" not in told[2] and told[2]["image"].endswith("b.png")
    with watching(trained, tmp_path) as again:
        for count, name in enumerate(("a_bmp.png", "a.bmp"), 1):
            write_image(tmp_path / "camera" / name, 2 + count, (96, 96))
            wait_for(again, count)
    answered = [Path(row["image"]).name for row in read_rows(tmp_path / "out/predictions.csv")]
    assert answered == ["a.png", "a.png", "b.png", "a_bmp.png", "a.bmp"]
    maps = {p.relative_to(tmp_path / "out/maps").as_posix() for p in (tmp_path / "out/maps").rglob("*.tiff")}
    last = {name for name in maps if name.startswith("a_bmp-")}  # its other names are taken
    assert maps - last == {"a.tiff", "line2/a.tiff", "b.tiff", "a_bmp.tiff"} and len(last) == 1


def test_a_file_that_changes_or_is_open_is_not_settled(tmp_path):
    waiting = _Waiting(0.01)
    path = tmp_path / "a.png"
    with path.open("wb") as stream:
        stream.write(b"a")
        stream.flush()
        assert not waiting.settled(path)
        time.sleep(0.02)
        if being_written(path):  # not every file system tells
            assert not waiting.settled(path)
    assert not being_written(path) and waiting.may_recover(path)
    path.write_bytes(b"another")
    assert not waiting.settled(path)
    time.sleep(0.02)
    assert waiting.settled(path)


def test_answers_do_not_fall_into_the_watched_folder(trained, tmp_path):
    (tmp_path / "camera").mkdir()
    with pytest.raises(UserError, match="choose another one"):
        watch(trained, [tmp_path / "camera"], tmp_path / "camera/out", Outputs(), threading.Event())
