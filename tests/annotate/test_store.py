import errno
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate import store as store_module
from anomalib_lite.annotate.crops import find_crops
from anomalib_lite.annotate.store import JOURNAL_NAME, UNLABELLED, Answer, Journal, Store, label_line
from anomalib_lite.data.decode import read_image, read_mask
from anomalib_lite.data.folder import COLUMNS, csv_line, read, read_labels
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import write_text

from .conftest import drawn_mask, nth, rows_of, write_crops

OK, NOK, SKIP, SCRATCH = Answer("OK"), Answer("NOK"), Answer("skip"), Answer("NOK", "scratch")
Open = Callable[[], Store]


def test_labels_csv_holds_each_answer_when_the_call_returns(open_store: Open, crops_folder: Path) -> None:
    store = open_store()
    for number, answer in ((2, SCRATCH), (0, OK), (1, SKIP), (3, NOK)):
        store.answer(nth(store, number), answer)
        last = store._journal.path.read_text().splitlines()[-1]
        assert f'"crop_00{number}.png"' in last
    assert rows_of(crops_folder) == [
        ["crop", "label", "defect", "mask"],
        ["crop_000.png", "OK", "", ""],
        ["crop_002.png", "NOK", "scratch", ""],
        ["crop_003.png", "NOK", "", ""],
    ]


def test_the_same_answer_again_is_no_event(open_store: Open, crops_folder: Path) -> None:
    store = open_store()
    assert not (crops_folder / "labels.csv").exists(), "nothing is written before there is an answer"
    store.answer(nth(store, 0), OK)
    store.answer(nth(store, 0), OK)
    assert store.version == 1
    store.undo()
    assert store.answers["crop_000.png"] == UNLABELLED
    assert store.undo() is None


@pytest.mark.parametrize("seed", range(5))
def test_random_answers_undos_and_restarts_agree_with_a_plain_model(
    seed: int, open_store: Open, crops_folder: Path
) -> None:
    dice = random.Random(seed)
    store = open_store()
    answers: dict[str, Answer] = {}
    history: list[tuple[str, Answer]] = []
    for _ in range(60):
        move = dice.random()
        if move < 0.6:
            one, answer = nth(store, dice.randrange(6)), dice.choice([OK, NOK, SKIP, SCRATCH, UNLABELLED])
            before = answers.get(one.key, UNLABELLED)
            if answer != before:
                history.append((one.key, before))
            answers[one.key] = answer
            store.answer(one, answer)
        elif move < 0.9:
            undone = store.undo()
            assert (undone.key if undone else None) == (history[-1][0] if history else None)
            if history:
                key, before = history.pop()
                answers[key] = before
        else:
            store = open_store()
        assert {c.key: store.answers.get(c.key, UNLABELLED) for c in store.crops.values()} == {
            c.key: answers.get(c.key, UNLABELLED) for c in store.crops.values()
        }
    expected = [
        [key, answer.label, answer.defect or "", ""]
        for key, answer in sorted(answers.items())
        if answer.label in ("OK", "NOK")
    ]
    assert rows_of(crops_folder)[1:] == expected


def test_an_answer_survives_a_kill_between_journal_and_snapshot(
    open_store: Open, crops_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    store.answer(nth(store, 0), OK)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        store.answer(nth(store, 0), SCRATCH)
    monkeypatch.undo()
    assert rows_of(crops_folder)[1] == ["crop_000.png", "OK", "", ""]
    store = open_store()
    assert store.answers["crop_000.png"] == SCRATCH and not store.notes
    assert rows_of(crops_folder)[1] == ["crop_000.png", "NOK", "scratch", ""]


@pytest.mark.parametrize("killed", [False, True])
def test_answers_that_come_at_once_share_a_snapshot_and_none_is_lost(
    open_store: Open, crops_folder: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    store, snapshots, begun = open_store(), [], threading.Event()

    def write(path: Path, text: str) -> None:
        if snapshots and killed:
            raise KeyboardInterrupt
        snapshots.append(text)
        begun.set()
        while store.version < 6:  # the others answer while this is written
            time.sleep(0.001)
        write_text(path, text)

    monkeypatch.setattr(store_module, "write_text", write)
    with ThreadPoolExecutor(6) as pool:
        first, *rest = store.crops.values()
        tasks = [pool.submit(store.answer, first, OK)]
        begun.wait(10)
        tasks += [pool.submit(store.answer, crop, OK) for crop in rest]
    assert killed == any(task.exception() for task in tasks)
    assert len(rows_of(crops_folder)) - 1 == (1 if killed else 6)
    assert [text.count("OK") for text in snapshots] == ([1] if killed else [1, 6])
    monkeypatch.undo()
    store = open_store()
    assert set(store.answers.values()) == {OK} and len(store.answers) == 6 and not store.notes


def test_a_snapshot_that_fails_is_told_and_its_old_state_is_never_taken_for_an_edit(
    open_store: Open, crops_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    store.answer(nth(store, 0), OK)

    def held_open(*_: object) -> None:
        raise PermissionError("a spreadsheet has it open")

    monkeypatch.setattr(store_module, "write_text", held_open)
    store.answer(nth(store, 0), NOK)
    store.answer(nth(store, 1), OK)
    assert "spreadsheet" in store.warning
    monkeypatch.undo()
    store = open_store()
    assert (store.answers["crop_000.png"], store.answers["crop_001.png"]) == (NOK, OK)
    assert not store.notes and store.warning is None
    assert len(rows_of(crops_folder)) == 3


def test_rows_edited_by_hand_are_taken_over_and_told(open_store: Open, crops_folder: Path) -> None:
    store = open_store()
    store.answer(nth(store, 0), OK)
    store.answer(nth(store, 1), OK)
    store.close()
    edited = "crop,label,defect,mask\ncrop_000.png,NOK,stain,\ncrop_004.png,OK,,\n"
    (crops_folder / "labels.csv").write_text(edited)
    store = open_store()
    assert store.answers["crop_000.png"] == Answer("NOK", "stain")
    assert store.answers["crop_004.png"] == OK
    assert store.answers["crop_001.png"] == OK, "a row that was deleted comes back"
    assert "2 answers" in store.notes[0]
    assert store.undo().key == "crop_001.png", "what was edited outside is not undone here"
    assert not open_store().notes


def test_labels_from_elsewhere_are_not_overwritten(open_store: Open, crops_folder: Path) -> None:
    (crops_folder / "truth").mkdir()
    cv2.imwrite(str(crops_folder / "truth/m.png"), np.full((32, 48), 255, np.uint8))
    (crops_folder / "labels.csv").write_text("crop,label,defect,mask\ncrop_003.png,NOK,stain,truth/m.png\n")
    found = find_crops(crops_folder)
    store = open_store()
    assert store.mask_path(nth(store, 3)) == crops_folder / "truth/m.png"
    store.answer(nth(store, 0), OK)
    assert rows_of(crops_folder)[1:] == [
        ["crop_000.png", "OK", "", ""],
        ["crop_003.png", "NOK", "stain", "truth/m.png"],
    ]
    store.save_mask(found.crops[3], drawn_mask())
    assert rows_of(crops_folder)[2][3] == "masks/crop_003.png"
    assert (crops_folder / "truth/m.png").is_file()


def test_labels_of_crops_that_are_not_shown_now_stay(tmp_path: Path) -> None:
    write_crops(tmp_path, 3)
    store = Store(find_crops(tmp_path))
    for number in range(3):
        store.answer(nth(store, number), OK)
    store.close()
    (tmp_path / "crop_001.png").unlink()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("crop\ncrop_002.png\n")
    store = Store(find_crops(manifest))
    store.close()
    assert [row[0] for row in rows_of(tmp_path)[1:]] == ["crop_002.png", "crop_000.png"]
    assert not store.notes


@pytest.mark.parametrize("row", ["../x.png,OK,,", "crop_000.png,NOK,,../../m.png", "/x.png,OK,,"])
def test_rows_that_point_outside_are_left_out(open_store: Open, crops_folder: Path, row: str) -> None:
    (crops_folder / "labels.csv").write_text(f"crop,label,defect,mask\n{row}\n")
    store = open_store()
    assert "outside" in store.notes[0]
    assert not store.answers and not store.masks


def test_a_journal_of_something_else_is_refused_untouched(open_store: Open, crops_folder: Path) -> None:
    journal = crops_folder / JOURNAL_NAME
    journal.write_text('{"crop": "a", "action": "answer", "label": "perhaps", "defect": null, "csv": ""}\n')
    with pytest.raises(UserError, match="line 1"):
        open_store()
    assert journal.read_text().endswith('"csv": ""}\n') and not (crops_folder / "labels.csv").exists()


@pytest.mark.parametrize(("label", "defect"), [("ok", None), ("OK", "stain"), (None, "stain"), ("NOK", " ")])
def test_an_answer_that_makes_no_sense_is_refused(label: str | None, defect: str | None) -> None:
    with pytest.raises(ValueError):
        Answer(label, defect)


def test_lines_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        ("a.png", Answer("OK"), None),
        ('b, "quoted".png', Answer("NOK", 'long, "odd" name'), "masks/b, c.png"),
        ("ü.png", Answer("NOK"), None),
    ]
    path = tmp_path / "labels.csv"
    path.write_text(csv_line(*COLUMNS) + "".join(label_line(*row) for row in rows), encoding="utf-8")
    assert [(r.crop, Answer(r.label, r.defect), r.mask) for r in read_labels(path)] == rows


def test_only_answers_have_a_line_and_only_a_nok_has_a_mask() -> None:
    assert label_line("a", Answer(), "m") == "" and label_line("a", Answer("skip"), "m") == ""
    assert label_line("a", Answer("OK"), "m") == "a,OK,,\n"
    assert label_line("a", Answer("NOK"), "m") == "a,NOK,,m\n"


def test_a_mask_is_a_png_of_0_and_255_in_the_crops_size(open_store: Open, crops_folder: Path) -> None:
    store = open_store()
    store.answer(nth(store, 2), SCRATCH)
    store.save_mask(nth(store, 2), drawn_mask(box=(1, 2, 3, 4)))
    mask = cv2.imread(str(crops_folder / "masks/crop_002.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (32, 48) and mask.dtype == np.uint8
    assert np.unique(mask).tolist() == [0, 255] and (mask > 0).sum() == 12 and mask[2, 1] == 255
    assert rows_of(crops_folder)[1] == ["crop_002.png", "NOK", "scratch", "masks/crop_002.png"]
    store.answer(nth(store, 2), OK)
    assert rows_of(crops_folder)[1] == ["crop_002.png", "OK", "", ""], "an OK crop has no defect to mask"
    store.undo()
    assert rows_of(crops_folder)[1][3] == "masks/crop_002.png"
    store.save_mask(nth(store, 2), drawn_mask(box=(0, 0, 0, 0)))
    assert rows_of(crops_folder)[1][3] == "" and not (crops_folder / "masks/crop_002.png").exists()
    assert open_store().mask_path(nth(store, 2)) is None


def test_a_mask_of_another_size_changes_nothing(open_store: Open, crops_folder: Path) -> None:
    store = open_store()
    with pytest.raises(ValueError, match="pixels"):
        store.save_mask(nth(store, 0), drawn_mask((10, 10)))
    assert store.version == 0 and not (crops_folder / "masks").exists()


def test_masks_survive_a_kill_on_either_side_of_their_event(
    open_store: Open, crops_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    store.answer(nth(store, 0), NOK)
    store.save_mask(nth(store, 1), drawn_mask())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store._journal, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save_mask(nth(store, 0), drawn_mask())  # the file is written, its event is not
    with pytest.raises(KeyboardInterrupt):
        store.save_mask(nth(store, 1), drawn_mask(box=(0, 0, 0, 0)))  # the file is gone, no event
    store = open_store()
    assert store.mask_path(nth(store, 0)) == crops_folder / "masks/crop_000.png"
    assert store.mask_path(nth(store, 1)) is None
    assert rows_of(crops_folder)[1] == ["crop_000.png", "NOK", "", "masks/crop_000.png"]


def test_the_reader_of_a_folder_takes_labels_csv_as_it_is(open_store: Open, crops_folder: Path) -> None:
    store = open_store()
    for number, answer in enumerate([OK, OK, OK, OK, SCRATCH, NOK]):
        store.answer(nth(store, number), answer)
    store.save_mask(nth(store, 4), drawn_mask(box=(1, 2, 3, 4)))
    splits = read(manifest=crops_folder / "labels.csv")
    parts = (splits.train, splits.val, splits.test)
    samples = {sample.image.name: sample for part in parts for sample in part}
    assert [samples[f"crop_00{i}.png"].label for i in range(6)] == [0, 0, 0, 0, 1, 1]
    scratched = samples["crop_004.png"]
    assert scratched.defect == "scratch" and read_mask(scratched.mask).sum() == 12
    assert read_mask(scratched.mask).shape == read_image(scratched.image).shape[:2]


EVENTS = [{"crop": "a.png", "label": "OK"}, {"crop": "ü/b c.png", "label": "NOK"}, {"crop": "", "label": 1}]


def write_journal(path: Path, events: list[dict]) -> bytes:
    journal = Journal(path)
    for event in events:
        journal.append(event)
    journal.close()
    return path.read_bytes()


def read_journal(path: Path) -> list[dict]:
    journal = Journal(path)
    journal.close()
    return journal.events


def test_cut_at_any_byte_it_keeps_every_whole_line_and_takes_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    content = write_journal(path, EVENTS)
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        journal = Journal(path)
        assert journal.events == EVENTS[:whole]
        assert (journal.torn is not None) == (not content[:length].endswith(b"\n") and length > 0)
        journal.append({"new": 1})
        journal.close()
        assert read_journal(path) == [*EVENTS[:whole], {"new": 1}]


@pytest.mark.parametrize("rest", [b"\0" * 300, b'{"crop": "a\n', b'{"crop": "a\n\0\0\0', b"\0\0\n"])
def test_what_a_power_failure_leaves_at_the_end_is_cut_off_and_told(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(write_journal(path, EVENTS) + rest)
    journal = Journal(path)
    journal.close()
    assert journal.events == EVENTS and journal.torn == rest
    assert read_journal(path) == EVENTS


def test_a_torn_line_is_told(open_store: Open, crops_folder: Path) -> None:
    store = open_store()
    store.answer(nth(store, 0), OK)
    with open(crops_folder / JOURNAL_NAME, "ab") as stream:
        stream.write(b'{"time": "2026')
    store = open_store()
    assert store.answers == {"crop_000.png": OK} and "half written" in store.notes[0]
    assert len(rows_of(crops_folder)) == 2


def test_damage_before_the_end_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    lines = write_journal(path, EVENTS).splitlines(keepends=True)
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
    before = write_journal(path, EVENTS[:1])
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
    assert read_journal(path) == [EVENTS[0], EVENTS[2]]


def test_an_event_is_synced_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    journal.append(EVENTS[0])
    monkeypatch.undo()
    journal.close()
    assert synced == [(tmp_path / "j.jsonl").stat().st_size]
