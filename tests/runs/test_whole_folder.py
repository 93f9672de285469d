"""Folders that are whole or absent."""

from __future__ import annotations

import pytest

from anomalib_lite.runs.whole_folder import whole_folder


def test_the_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "set"
    with whole_folder(target) as unfinished:
        (unfinished / "a.txt").write_text("a")
        assert not target.exists()
    assert (target / "a.txt").read_text() == "a" and list(target.parent.iterdir()) == [target]


def test_a_failed_block_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "set") as unfinished:
        (unfinished / "a.txt").write_text("a")
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_came_meanwhile_stays(tmp_path):
    target = tmp_path / "set"
    with whole_folder(target) as unfinished:
        (unfinished / "a.txt").write_text("late")
        target.mkdir()
        (target / "a.txt").write_text("first")
    assert (target / "a.txt").read_text() == "first" and list(tmp_path.iterdir()) == [target]


def test_a_file_in_the_way_is_reported(tmp_path):
    (tmp_path / "set").write_text("in the way")
    with pytest.raises(OSError), whole_folder(tmp_path / "set"):
        pass
    assert (tmp_path / "set").read_text() == "in the way"
