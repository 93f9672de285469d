"""Files are whole or absent."""

import json
import os
import stat
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from anomalib_lite.runs.atomic import atomic_path, remove_parts, write_json, write_text


class Cut(Exception):
    pass


def entries(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*"))


def test_a_file_appears_whole_in_new_folders_as_the_umask_says(tmp_path: Path):
    write_text(tmp_path / "deep" / "er" / "a.txt", "größe\n")
    assert (tmp_path / "deep/er/a.txt").read_bytes() == "größe\n".encode()
    assert entries(tmp_path / "deep/er") == ["a.txt"]
    with atomic_path(tmp_path / "model.safetensors") as temporary:
        save_file({"a": torch.zeros(1)}, temporary)  # which its owner alone may read
    (tmp_path / "plain.txt").touch()
    names = ("deep/er/a.txt", "model.safetensors", "plain.txt")
    assert len({stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names}) == 1


def test_the_old_file_is_there_until_the_end_and_stays_after_a_failure(tmp_path: Path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(Cut), atomic_path(target) as temporary:
        temporary.write_text("half of the ne")
        raise Cut
    assert target.read_text() == "old" and entries(tmp_path) == ["a.txt"]
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".txt", "beside it, and writers go by the suffix"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and entries(tmp_path) == ["a.txt"]


def test_what_killed_writers_left_goes_an_hour_later_and_nothing_else_does(tmp_path: Path):
    hour = time.time() - 3700
    for name in (".labels.part-a1b2c3d4.csv", ".last.part-abcdefgh", ".labels.backup.csv", ".part1.png", "a.part-b.c"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (hour, hour))
    (tmp_path / ".model.part-12345678.bin").touch()  # somebody is writing
    kept = [".labels.backup.csv", ".model.part-12345678.bin", ".part1.png", "a.part-b.c", "a.txt"]
    write_text(tmp_path / "a.txt", "")
    assert entries(tmp_path) == kept
    with pytest.raises(Cut), atomic_path(tmp_path / "b.txt") as temporary:
        temporary.touch()
        os.utime(temporary, (hour, hour))
        remove_parts(tmp_path)
        assert not temporary.exists(), "writers give names that are known again"
        raise Cut


def test_json_keeps_the_order_and_refuses_what_it_cannot_say(tmp_path: Path):
    write_json(tmp_path / "a.json", {"z": 1, "a": [0.1, None]})
    assert list(json.loads((tmp_path / "a.json").read_text()).items()) == [("z", 1), ("a", [0.1, None])]
    for value in (float("nan"), float("inf"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(tmp_path / "a.json", {"value": value})
    assert entries(tmp_path) == ["a.json"]
