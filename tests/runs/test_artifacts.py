"""Shared results: made once, whole or absent, whatever happens to who makes them."""

import errno
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from anomalib_lite.runs import artifacts as lock
from anomalib_lite.runs.artifacts import artifact, artifact_key, exclusive_lock


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def filling(value: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "value").write_text(value)


def fail(folder: Path) -> None:
    (folder / "half").touch()
    raise RuntimeError("no")


def test_made_once(tmp_path: Path) -> None:
    assert artifact(tmp_path / "deep/a", filling("1")) is True
    assert artifact(tmp_path / "deep/a", filling("2")) is False
    assert (tmp_path / "deep/a/value").read_text() == "1" and names(tmp_path / "deep") == ["a"]


def test_who_needs_what_another_process_is_making_waits_and_says_what_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.05)
    caplog.set_level(logging.INFO)
    target, made = tmp_path / "a", []
    with exclusive_lock(target):
        waiting = threading.Thread(target=lambda: made.append(artifact(target, filling("mine"))))
        waiting.start()
        end = time.monotonic() + 60
        while f"waiting for another process that is creating {target}" not in caplog.text:
            assert time.monotonic() < end, "it does not wait"
            time.sleep(0.01)
        target.mkdir()
        filling("theirs")(target)
    waiting.join()
    assert made == [False] and (target / "value").read_text() == "theirs" and names(tmp_path) == ["a"]


@pytest.mark.parametrize("resumable", [False, True])
def test_a_killed_process_leaves_its_work_to_those_alone_who_can_go_on(tmp_path: Path, resumable: bool) -> None:
    target, found = tmp_path / "a", []
    (tmp_path / ".a.part").mkdir()
    (tmp_path / ".a.part/step").touch()
    (tmp_path / ".a.lock").touch()  # the system has released it

    def make(folder: Path) -> None:
        found.append(names(folder))
        assert (tmp_path / ".a.lock").exists(), "others wait"
        filling("mine")(folder)

    assert artifact(target, make, resumable) is True
    assert found == [["step"] if resumable else []]
    assert names(target) == [*(["step"] if resumable else []), "value"] and names(tmp_path) == ["a"]


def test_a_failed_making_leaves_nothing_unless_it_can_go_on(tmp_path: Path) -> None:
    for resumable, left in ((False, []), (True, [".a.part"])):
        with pytest.raises(RuntimeError):
            artifact(tmp_path / "a", fail, resumable)
        assert names(tmp_path) == left
    artifact(tmp_path / "a", filling("whole"), resumable=True)
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["half", "value"]


def test_an_old_one_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a"
    artifact(target, filling("old"))
    (target / "more").touch()
    with pytest.raises(RuntimeError):
        artifact(target, fail, resumable=True, replace=True)
    assert names(target) == ["more", "value"] and (target / "value").read_text() == "old"
    assert names(tmp_path) == [".a.part", "a"]
    assert artifact(target, filling("new"), resumable=True, replace=True) is True
    assert names(target) == ["value"] and (target / "value").read_text() == "new" and names(tmp_path) == ["a"]


def test_a_file_in_the_way_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("in the way")
    with pytest.raises(OSError):
        artifact(tmp_path / "a", filling("1"))
    assert (tmp_path / "a").read_text() == "in the way" and names(tmp_path) == ["a"]


def test_where_nothing_can_be_locked_work_goes_on_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)

    def make(folder: Path) -> None:
        artifact(tmp_path / "a", filling("theirs"))  # somebody else, who is faster
        (folder / "value").write_text("mine")

    artifact(tmp_path / "a", make)
    assert (tmp_path / "a/value").read_text() == "theirs" and names(tmp_path) == ["a"]
    assert f"cannot be locked ([Errno {errno.ENOLCK}]" in caplog.text


def test_the_key_goes_by_content_not_by_order_or_place(tmp_path: Path) -> None:
    assert artifact_key({"a": 1, "b": 2}) == artifact_key({"b": 2, "a": 1})
    assert artifact_key({"a": 1}) != artifact_key({"a": 2})
    assert artifact_key("a", "b") != artifact_key("ab")
    keys = []
    for name, content in (("a.pt", "weights"), ("b.pt", "weights"), ("a.pt", "others")):
        (tmp_path / name).write_text(content)
        keys.append(artifact_key({"backbone": {"weights": str(tmp_path / name)}}))
    assert keys[0] == keys[1] != keys[2]
