from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate import store as store_module
from anomalib_lite.annotate.crops import find_crops
from anomalib_lite.annotate.labels import UNLABELLED, Answer
from anomalib_lite.annotate.store import JOURNAL_NAME, Store
from anomalib_lite.errors import UserError

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


def test_the_same_answer_again_is_no_event(open_store: Open) -> None:
    store = open_store()
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


def test_a_torn_line_is_told(open_store: Open, crops_folder: Path) -> None:
    store = open_store()
    store.answer(nth(store, 0), OK)
    store.close()
    with open(crops_folder / JOURNAL_NAME, "ab") as stream:
        stream.write(b'{"time": "2026')
    store = open_store()
    assert store.answers == {"crop_000.png": OK}
    assert "half written" in store.notes[0]


def test_a_start_without_an_answer_writes_no_labels(open_store: Open, crops_folder: Path) -> None:
    open_store()
    assert not (crops_folder / "labels.csv").exists()
