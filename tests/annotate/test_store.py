"""Answers, masks and their journal: nothing that was confirmed is lost, whatever happens in between."""

import errno
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from anomalib_lite.annotate import store as store_module
from anomalib_lite.annotate.crops import find_crops
from anomalib_lite.annotate.store import (
    JOURNAL_NAME,
    UNLABELLED,
    Answer,
    Journal,
    StaleMask,
    Store,
    browser_image,
    decode_mask,
    file_version,
)
from anomalib_lite.data.decode import read_image, read_mask
from anomalib_lite.data.folder import read
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import write_text
from tests.made import write_mask

from .conftest import SIZE, drawn_mask, mask_of, nth, rows

OK, NOK, SKIP, SCRATCH = Answer("OK"), Answer("NOK"), Answer("skip"), Answer("NOK", 'long, "odd" scratch')
Open = Callable[[], Store]


def raiser(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_labels_csv_holds_each_answer_when_the_call_returns(store: Store, folder: Path):
    assert not (folder / "labels.csv").exists(), "nothing is written before there is an answer"
    for number, answer in ((2, SCRATCH), (0, OK), (1, SKIP), (3, NOK), (3, NOK)):
        store.answer(nth(store, number), answer)
        assert f'"crop_00{number}.png"' in (folder / JOURNAL_NAME).read_text().splitlines()[-1]
    expected = {0: ("OK", "", ""), 2: ("NOK", 'long, "odd" scratch', ""), 3: ("NOK", "", "")}
    assert list(rows(folder).items()) == [(f"crop_00{number}.png", row) for number, row in expected.items()]
    assert store.version == 4, "the same answer again is no event"


def test_random_answers_undos_and_restarts_agree_with_a_plain_model(open_store: Open, folder: Path):
    dice, store = random.Random(0), open_store()
    answers: dict[str, Answer] = {}
    history: list[tuple[str, Answer]] = []
    for _ in range(180):
        move = dice.random()
        if move < 0.6:
            one, answer = nth(store, dice.randrange(6)), dice.choice([OK, NOK, SKIP, SCRATCH, UNLABELLED])
            before = answers.get(one.key, UNLABELLED)
            if answer != before:
                history.append((one.key, before))
            answers[one.key] = answer
            store.answer(one, answer)
        elif move < 0.9:
            one = nth(store, dice.randrange(6))
            place = max((i for i, (key, _) in enumerate(history) if key == one.key), default=None)
            assert store.undo(one, answers.get(one.key, UNLABELLED)) == (place is not None)
            if place is not None:
                answers[one.key] = history.pop(place)[1]
        else:
            store = open_store()
        known = {key: answer for key, answer in store.answers.items() if answer != UNLABELLED}
        assert known == {key: answer for key, answer in answers.items() if answer != UNLABELLED}
    assert rows(folder) == {
        key: (answer.label, answer.defect or "", "") for key, answer in answers.items() if answer.label in ("OK", "NOK")
    }


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PermissionError("a spreadsheet has it open")])
def test_an_answer_whose_snapshot_fails_is_kept_and_the_old_snapshot_is_no_edit(
    open_store: Open, folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    store = open_store()
    store.answer(nth(store, 0), OK)
    monkeypatch.setattr(store_module, "write_text", raiser(error))
    for number in (0, 1):
        if isinstance(error, OSError):
            store.answer(nth(store, number), SCRATCH)
            assert "spreadsheet" in store.warning
        else:  # a kill between journal and snapshot
            with pytest.raises(KeyboardInterrupt):
                store.answer(nth(store, number), SCRATCH)
    monkeypatch.undo()
    assert rows(folder) == {"crop_000.png": ("OK", "", "")}
    store = open_store()
    assert store.answers == {"crop_000.png": SCRATCH, "crop_001.png": SCRATCH}
    assert not store.notes and store.warning is None and len(rows(folder)) == 2


@pytest.mark.parametrize("killed", [False, True])
def test_answers_that_come_at_once_share_a_snapshot_and_none_is_lost(
    open_store: Open, folder: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
):
    store, snapshots, begun = open_store(), [], threading.Event()

    def write(path: Path, text: str) -> None:
        if snapshots and killed:
            raise KeyboardInterrupt
        snapshots.append(text.count("OK"))
        begun.set()
        while store.version < 6:  # the others answer while this is written
            time.sleep(0.001)
        write_text(path, text)

    monkeypatch.setattr(store_module, "write_text", write)
    with ThreadPoolExecutor(6) as pool:
        tasks = [pool.submit(store.answer, nth(store, 0), OK)]
        begun.wait(10)
        tasks += [pool.submit(store.answer, nth(store, number), OK) for number in range(1, 6)]
    assert killed == any(task.exception() for task in tasks)
    assert len(rows(folder)) == (1 if killed else 6)
    assert snapshots == ([1] if killed else [1, 6])
    monkeypatch.undo()
    store = open_store()
    assert list(store.answers.values()) == [OK] * 6 and not store.notes


def test_rows_edited_by_hand_are_taken_over_and_told(open_store: Open, folder: Path):
    store = open_store()
    store.answer(nth(store, 0), OK)
    store.answer(nth(store, 1), OK)
    (folder / "labels.csv").write_text("crop,label,defect,mask\ncrop_000.png,NOK,stain,\ncrop_004.png,OK,,\n")
    store = open_store()
    edited = {"crop_000.png": Answer("NOK", "stain"), "crop_004.png": OK}
    assert store.answers == edited | {"crop_001.png": OK}, "a row that was deleted comes back"
    assert "2 answers were imported" in store.notes[0] and "1 answers that labels.csv lacked" in store.notes[1]
    assert len(store.notes) == 2 and not list(folder.glob("labels.edited*")), "all else is in the new table"
    assert not store.undo(nth(store, 0), OK), "what was edited outside is not undone here"
    assert store.undo(nth(store, 1), OK)
    assert not open_store().notes


def test_labels_from_elsewhere_are_not_overwritten(open_store: Open, folder: Path):
    write_mask(folder / "truth/m.png")
    (folder / "labels.csv").write_text("crop,label,defect,mask\ncrop_003.png,NOK,stain,truth/m.png\n")
    store = open_store()
    assert store.mask_path(nth(store, 3)) == folder / "truth/m.png"
    store.answer(nth(store, 0), OK)
    assert rows(folder) == {"crop_000.png": ("OK", "", ""), "crop_003.png": ("NOK", "stain", "truth/m.png")}
    store.save_mask(nth(store, 3), drawn_mask(), file_version(folder / "truth/m.png"))
    assert rows(folder)["crop_003.png"][2] == "masks/crop_003.png"
    assert (folder / "truth/m.png").is_file()


def test_an_edit_while_the_page_is_open_is_copied_once_and_told(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    store.answer(nth(store, 0), OK)
    store.answer(nth(store, 1), OK)
    edited = "crop,label,defect,mask\ncrop_000.png,NOK,stain,\n"
    (folder / "labels.csv").write_text(edited)
    with monkeypatch.context() as patch:  # whatever then happens to the table itself
        patch.setattr(store_module, "write_text", raiser(PermissionError("a spreadsheet has it open")))
        store.answer(nth(store, 2), OK)
    store.answer(nth(store, 3), OK)
    [copy] = folder.glob("labels.edited-*.csv")
    assert copy.read_text() == edited and copy.name in store.notes[0] and len(rows(folder)) == 4
    (folder / "labels.csv").write_text(edited + "crop_005.png,OK,,\n")
    store.answer(nth(store, 4), OK)
    assert len(list(folder.glob("labels.edited-*.csv"))) == 2 and store.warning == store.notes[1]
    store.answer(nth(store, 5), OK)
    assert store.warning is None and len(store.notes) == 2 and len(rows(folder)) == 6


def test_a_table_with_more_than_the_answers_is_copied_before_it_is_replaced_and_a_plain_one_is_not(
    open_store: Open, folder: Path
):
    plain = "crop,label,defect,mask\ncrop_003.png,NOK,stain,\ncrop_000.png,OK,,\n"  # as the demo writes it
    for more in (plain, plain + "gone.png,OK,,\n", plain.replace("mask\n", "mask,person\n", 1)):
        for file in folder.glob("*labels*"):
            file.unlink()
        (folder / "labels.csv").write_text(more)
        store, copies = open_store(), list(folder.glob("labels.edited-*.csv"))
        assert [copy.read_text() for copy in copies] == [more] * (more != plain)
        assert [note for note in store.notes if "a copy is" in note and copies[0].name in note] == store.notes[1:]
        assert len(store.notes) == 1 + len(copies) and len(rows(folder)) == 2
        assert not open_store().notes and len(list(folder.glob("labels.edited-*.csv"))) == len(copies)


def test_labels_of_crops_that_are_not_shown_now_stay(open_store: Open, folder: Path):
    store = open_store()
    for number in range(3):
        store.answer(nth(store, number), OK)
    store.close()
    (folder / "crop_001.png").unlink()
    (folder / "manifest.csv").write_text("crop\ncrop_002.png\n")
    store = Store(find_crops(folder / "manifest.csv"))
    store.close()
    assert list(rows(folder)) == ["crop_002.png", "crop_000.png"] and not store.notes
    assert not list(folder.glob("labels.edited*"))


@pytest.mark.parametrize("row", ["../x.png,OK,,", "crop_000.png,NOK,,../../m.png", "/x.png,OK,,"])
def test_rows_that_point_outside_are_left_out(open_store: Open, folder: Path, row: str):
    (folder / "labels.csv").write_text(f"crop,label,defect,mask\n{row}\n")
    store = open_store()
    assert "outside" in store.notes[0]
    assert not store.answers and not any(store.masks.values())


def test_a_mask_is_a_png_of_0_and_255_in_the_crops_size(open_store: Open, folder: Path):
    store = open_store()
    crop = nth(store, 2)
    store.answer(crop, SCRATCH)
    store.save_mask(crop, drawn_mask((1, 2, 3, 4)))
    mask, expected = mask_of(folder, "crop_002.png"), np.zeros(SIZE[::-1], np.uint8)
    expected[2:6, 1:4] = 255
    np.testing.assert_array_equal(mask, expected)
    assert rows(folder)["crop_002.png"] == (*("NOK", SCRATCH.defect), "masks/crop_002.png")
    store.answer(crop, OK)
    assert rows(folder)["crop_002.png"] == ("OK", "", ""), "an OK crop has no defect to mask"
    assert store.undo(crop, OK)
    assert rows(folder)["crop_002.png"][2] == "masks/crop_002.png"
    with pytest.raises(StaleMask, match="another page"):
        store.save_mask(crop, drawn_mask((0, 0, 0, 0)))
    np.testing.assert_array_equal(mask_of(folder, "crop_002.png"), expected)
    store.save_mask(crop, drawn_mask((0, 0, 0, 0)), file_version(store.mask_path(crop)))
    assert rows(folder)["crop_002.png"][2] == "" and not (folder / "masks/crop_002.png").exists()
    assert open_store().mask_path(crop) is None


def test_masks_survive_a_kill_on_either_side_of_their_event(
    open_store: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    store = open_store()
    store.answer(nth(store, 0), NOK)
    store.save_mask(nth(store, 1), drawn_mask())
    monkeypatch.setattr(store._journal, "append", raiser(KeyboardInterrupt()))
    for number, box in ((0, (4, 5, 10, 9)), (1, (0, 0, 0, 0))):  # a file is written, one is gone; no event says so
        crop = nth(store, number)
        with pytest.raises(KeyboardInterrupt):
            store.save_mask(crop, drawn_mask(box), file_version(store.mask_path(crop)))
    store = open_store()
    assert store.mask_path(nth(store, 0)) == folder / "masks/crop_000.png"
    assert store.mask_path(nth(store, 1)) is None
    assert rows(folder) == {"crop_000.png": ("NOK", "", "masks/crop_000.png")}


def test_the_reader_of_a_folder_takes_labels_csv_as_it_is(store: Store, folder: Path):
    for number, answer in enumerate([OK, OK, OK, OK, SCRATCH, NOK]):
        store.answer(nth(store, number), answer)
    store.save_mask(nth(store, 4), drawn_mask((1, 2, 3, 4)))
    splits = read(manifest=folder / "labels.csv")
    samples = {sample.image.name: sample for part in (splits.train, splits.val, splits.test) for sample in part}
    assert [samples[f"crop_00{i}.png"].label for i in range(6)] == [0, 0, 0, 0, 1, 1]
    scratched = samples["crop_004.png"]
    assert scratched.defect == SCRATCH.defect and read_mask(scratched.mask).sum() == 12
    assert read_mask(scratched.mask).shape == read_image(scratched.image).shape[:2]


# Pictures


GREY = cv2.imencode(".png", np.zeros(SIZE[::-1], np.uint8))[1].tobytes()


@pytest.mark.parametrize("png", [b"", b"GIF89a" + b"\0" * 60, drawn_mask(size=SIZE[::-1]), drawn_mask()[:60], GREY])
def test_what_is_no_mask_of_the_crops_size_changes_nothing(store: Store, folder: Path, png: bytes):
    with pytest.raises(ValueError, match=r"PNG|pixels"):
        store.save_mask(nth(store, 0), png)
    assert store.version == 0 and not (folder / "masks").exists()


def test_the_soft_edge_of_a_stroke_is_decided_at_one_half_and_a_huge_picture_by_its_header(
    monkeypatch: pytest.MonkeyPatch,
):
    image = np.zeros((1, 4, 4), np.uint8)
    image[0, :, 3] = (0, 127, 128, 255)
    assert decode_mask(cv2.imencode(".png", image)[1].tobytes(), (1, 4)).tolist() == [[0, 0, 255, 255]]
    png = bytearray(drawn_mask())
    png[16:24] = (100_000).to_bytes(4, "big") * 2
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="100000"):
        decode_mask(bytes(png), SIZE[::-1])


def test_what_browsers_cannot_show_or_would_turn_comes_as_png_with_the_pixels_that_training_reads(tmp_path: Path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer that obeys it turns the picture by 90 degrees
    for name, kind in (("a.tif", "png"), ("a.png", "png"), ("a.bmp", "bmp"), ("turned.jpg", "png")):
        path, turned = tmp_path / name, name == "turned.jpg"
        picture.save(path, **({"exif": exif} if turned else {}))
        content, media_type = browser_image(path)
        shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert media_type == f"image/{kind}" and shown.shape == ((16, 8, 3) if turned else (8, 16, 3))
        np.testing.assert_array_equal(shown[..., ::-1], read_image(path))


# The journal

EVENTS = [{"crop": "a.png", "label": "OK"}, {"crop": "ü/b c.png", "label": "NOK"}, {"crop": "", "label": 1}]


def journal_of(path: Path, *new: dict) -> tuple[list[dict], bytes]:
    """Opens a journal, appends events, and returns what it held before."""
    with closing(Journal(path)) as journal:
        for event in new:
            journal.append(event)
    return journal.events, journal.torn


def test_cut_at_any_byte_it_keeps_every_whole_line_and_takes_new_ones(tmp_path: Path):
    path = tmp_path / "j.jsonl"
    journal_of(path, *EVENTS)
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole, rest = content[:length].count(b"\n"), content[:length].rpartition(b"\n")[2]
        assert journal_of(path, {"new": 1}) == (EVENTS[:whole], rest)
        assert journal_of(path) == ([*EVENTS[:whole], {"new": 1}], b"")


@pytest.mark.parametrize("rest", [b"\0" * 300, b'{"crop": "a\n', b'{"crop": "a\n\0\0\0', b"\0\0\n"])
def test_what_a_power_failure_leaves_at_the_end_is_cut_off(tmp_path: Path, rest: bytes):
    path = tmp_path / "j.jsonl"
    journal_of(path, *EVENTS)
    path.write_bytes(path.read_bytes() + rest)
    assert journal_of(path) == (EVENTS, rest)
    assert journal_of(path) == (EVENTS, b"")


def test_a_torn_line_is_told(open_store: Open, folder: Path):
    store = open_store()
    store.answer(nth(store, 0), OK)
    with open(folder / JOURNAL_NAME, "ab") as stream:
        stream.write(b'{"time": "2026')
    store = open_store()
    assert store.answers == {"crop_000.png": OK} and "half written" in store.notes[0]


@pytest.mark.parametrize(
    "damage", [b"{damaged}\n", b'{"crop": "a", "action": "answer", "label": "perhaps", "defect": null, "csv": ""}\n']
)
def test_damage_before_the_end_and_what_is_no_event_are_refused_untouched(open_store: Open, folder: Path, damage):
    store = open_store()
    store.answer(nth(store, 0), OK)
    (folder / "labels.csv").unlink()
    whole = (folder / JOURNAL_NAME).read_bytes()
    (folder / JOURNAL_NAME).write_bytes(whole + damage + whole)
    with pytest.raises(UserError, match="line 2"):
        open_store()
    assert (folder / JOURNAL_NAME).read_bytes() == whole + damage + whole and not (folder / "labels.csv").exists()


def test_a_second_writer_is_refused_until_the_first_is_gone(store: Store, open_store: Open, folder: Path):
    with pytest.raises(UserError, match="Another process is using"):
        Store(find_crops(folder))
    open_store()


def test_a_job_without_an_answer_leaves_no_file(open_store: Open, folder: Path):
    before = sorted(folder.rglob("*"))
    open_store().close()
    assert sorted(folder.rglob("*")) == before


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = Journal(path := tmp_path / "j.jsonl")
    journal.append(EVENTS[0])
    before, really_write = path.read_bytes(), os.write

    def half(file: int, data: bytes) -> int:
        if len(data) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really_write(file, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        journal.append(EVENTS[1])
    monkeypatch.undo()
    assert path.read_bytes() == before
    journal.append(EVENTS[2])
    journal.close()
    assert journal_of(path)[0] == [EVENTS[0], EVENTS[2]]


def test_an_event_is_synced_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    journal_of(tmp_path / "j.jsonl", EVENTS[0])
    assert synced == [(tmp_path / "j.jsonl").stat().st_size]
