from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_lite.runs.artifacts import artifact, artifact_key


def test_made_once(tmp_path: Path) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "value").write_text("1")

    assert artifact(tmp_path / "a", make) is True
    assert artifact(tmp_path / "a", make) is False
    assert len(calls) == 1 and (tmp_path / "a" / "value").read_text() == "1"


def test_a_failed_making_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        artifact(tmp_path / "a", fail)
    assert list(tmp_path.iterdir()) == []


def test_somebody_else_was_faster(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "value").write_text("theirs")
        (folder / "value").write_text("mine")

    artifact(tmp_path / "a", make)
    assert (tmp_path / "a" / "value").read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_key_goes_by_content_not_by_order() -> None:
    assert artifact_key({"a": 1, "b": 2}) == artifact_key({"b": 2, "a": 1})
    assert artifact_key({"a": 1}) != artifact_key({"a": 2})
    assert artifact_key("a", "b") != artifact_key("ab")
