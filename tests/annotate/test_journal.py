from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from anomalib_lite.annotate.journal import Journal
from anomalib_lite.errors import UserError

EVENTS = [{"crop": "a.png", "label": "OK"}, {"crop": "ü/b c.png", "label": "NOK"}, {"crop": "", "label": 1}]


def write(path: Path, events: list[dict]) -> bytes:
    journal = Journal(path)
    for event in events:
        journal.append(event)
    journal.close()
    return path.read_bytes()


def read(path: Path) -> list[dict]:
    journal = Journal(path)
    journal.close()
    return journal.events


def test_what_was_appended_is_read_again_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    write(path, EVENTS[:2])
    write(path, EVENTS[2:])
    assert read(path) == EVENTS


def test_cut_at_any_byte_it_keeps_every_whole_line_and_takes_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    content = write(path, EVENTS)
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        journal = Journal(path)
        assert journal.events == EVENTS[:whole]
        assert (journal.torn is not None) == (not content[:length].endswith(b"\n") and length > 0)
        journal.append({"new": 1})
        journal.close()
        assert read(path) == [*EVENTS[:whole], {"new": 1}]


@pytest.mark.parametrize("rest", [b"\0" * 300, b'{"crop": "a\n', b'{"crop": "a\n\0\0\0', b"\0\0\n"])
def test_what_a_power_failure_leaves_at_the_end_is_cut_off_and_told(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(write(path, EVENTS) + rest)
    journal = Journal(path)
    journal.close()
    assert journal.events == EVENTS
    assert journal.torn == rest
    assert read(path) == EVENTS


def test_damage_before_the_end_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    lines = write(path, EVENTS).splitlines(keepends=True)
    damaged = lines[0] + b"{damaged}\n" + lines[2]
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="line 2"):
        Journal(path)
    assert path.read_bytes() == damaged


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="this system has no file locks of this kind")
    path = tmp_path / "j.jsonl"
    first = Journal(path)
    with pytest.raises(UserError, match="in use"):
        Journal(path)
    first.close()
    Journal(path).close()


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    before = write(path, EVENTS[:1])
    journal = Journal(path)
    really_write = os.write

    def half(file: int, data: bytes) -> int:
        if len(data) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really_write(file, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        journal.append(EVENTS[1])
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert journal.events == EVENTS[:1]
    journal.append(EVENTS[2])
    journal.close()
    assert read(path) == [EVENTS[0], EVENTS[2]]


def test_an_event_is_synced_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    journal.append(EVENTS[0])
    monkeypatch.undo()
    journal.close()
    assert synced == [(tmp_path / "j.jsonl").stat().st_size]
