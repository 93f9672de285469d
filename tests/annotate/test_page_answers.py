"""Answering by keyboard in a real browser."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_lite.annotate.crops import Score
from anomalib_lite.annotate.store import Store
from tests.servers import started

from .conftest import DEFECTS, SIZE, Desk, mask_of, nth, rows

Open = Callable[..., Desk]


def test_twenty_crops_an_undo_and_a_mask_survive_a_killed_server(browser: Any, folder: Path):
    options = [f"crops={folder}", "open_browser=false"]
    with started("annotate", *options, "port=0") as (_, url, _):
        desk = Desk(browser, url)
        keys = [*"on1o8", "Space", *"O9oo3no2o", "Space", *"4o7n"]
        desk.answer(*keys[:12])
        desk.press("u")
        desk.wait_for("#name", "crop_011.png")
        desk.answer("5", *keys[12:])
        desk.press("d")
        desk.drag((20, 20), (60, 20))
        desk.wait_for("#status", "mask saved")
        desk.answer("6")
        assert "21 / 24" in desk.text("#counts")

    before = rows(folder)
    meaning = {"o": ("OK", ""), "O": ("OK", ""), "n": ("NOK", "")}
    keys[11] = "5"
    expected = {
        f"crop_{i:03d}.png": meaning.get(key) or ("NOK", DEFECTS[int(key) - 1])
        for i, key in enumerate([*keys, "6"])
        if key != "Space"
    }
    assert {name: row[:2] for name, row in before.items()} == expected
    assert before["crop_020.png"] == ("NOK", "structure_missing", "masks/crop_020.png")
    mask = mask_of(folder, "crop_020.png")
    assert mask.shape == SIZE[::-1] and set(np.unique(mask)) == {0, 255}
    assert mask[20, 20:61].all() and not mask[45:].any()

    # A dead server: the answer is refused aloud, the crop stays.
    asked = desk.name
    desk.press("o")
    desk.wait_for("#banner", "does not answer")
    assert desk.name == asked

    # Started again, it has everything, and the page left open goes on by itself.
    with started("annotate", *options, f"port={url.rpartition(':')[2]}") as (process, _, _):
        assert rows(folder) == before
        desk.answer("o")
        assert desk.page.is_hidden("#banner")
        assert rows(folder) == {**before, asked: ("OK", "", "")}
        again = Desk(browser, url)
        assert "22 / 24" in again.text("#counts") and again.name == "crop_022.png"
        again.press("u")
        again.wait_for("#status", "nothing to undo on this page")
        desk.page.reload()
        desk.page.wait_for_selector("#stage img.crop[alt^=Crop]", state="attached")
        desk.press("u")
        desk.wait_for("#name", asked)
        assert rows(folder) == before
        process.send_signal(signal.SIGINT)
        log = process.communicate(timeout=20)[1]
        oks = [row[0] for row in before.values()].count("OK")
        assert process.returncode == 0 and f"{oks} OK, {len(before) - oks} NOK, {24 - len(before)} left" in log


def test_a_key_pressed_before_the_next_crop_shows_does_not_answer_it(desk: Open, store: Store):
    one = desk()
    one.page.evaluate("""() => { for (let i = 0; i < 3; i++)
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "o", bubbles: true })); }""")
    one.wait_for("#name", "crop_001.png")
    one.press("ArrowRight")
    one.wait_for("#name", "crop_002.png")
    assert list(store.answers) == ["crop_000.png"]


def test_arrows_move_to_crops_that_are_already_there_and_undo_returns(desk: Open, store: Store):
    one = desk()
    one.page.wait_for_load_state("networkidle")
    one.requests.clear()
    one.answer("ArrowRight")
    assert not [url for url in one.requests if nth(store, 1).id in url]
    one.answer("ArrowRight", "ArrowLeft", "End")
    assert one.name == "crop_023.png"
    one.answer("Home", "3")
    assert one.text("#last .what") == "NOK · print missing"
    one.answer("ArrowLeft")
    assert one.text("#badge") == "NOK · print missing"
    assert one.page.get_attribute("#defects [data-defect=print_missing]", "aria-pressed") == "true"
    one.press("u")
    one.wait_for("#badge", "unlabelled")
    one.press("u")
    one.wait_for("#status", "nothing to undo")
    assert store.version == 2


def test_crops_passed_over_come_at_the_end_and_then_it_is_done(desk: Open):
    one = desk()
    one.answer("ArrowRight", "ArrowRight", *["o"] * 22)
    assert one.name == "crop_000.png"
    one.answer("n", "Space")
    assert "All crops are answered" in one.text("#empty")
    assert one.page.get_attribute("#progress", "aria-valuenow") == "24"
    one.page.click("text=Show skipped")
    one.page.wait_for_selector("#empty", state="hidden")
    assert (one.name, one.text("#badge")) == ("crop_001.png", "skipped")


def test_filters_and_orders_choose_what_is_shown(desk: Open):
    scores = {"crop_003.png": Score(0.9, True), "crop_001.png": Score(0.2, False), "crop_007.png": Score(0.5, None)}
    one = desk(scores=scores)
    assert one.name == "crop_003.png", "where there are scores, the least usual comes first"
    one.page.select_option("#order", "given")
    one.wait_for("#name", "crop_000.png")
    assert one.page.is_hidden("#suggestion")
    one.page.select_option("#order", "suspicious")
    one.wait_for("#name", "crop_003.png")
    assert one.text("#suggestion") == "suggests NOK, 0.9"
    one.answer("8")
    assert one.name == "crop_007.png" and one.text("#suggestion") == "score 0.5"
    for number in (1, 0):
        one.answer("ArrowRight")
        assert one.name == f"crop_00{number}.png"
    one.page.select_option("#order", "harmless")
    one.wait_for("#name", "crop_001.png")
    one.answer("o", "Space")
    for choice, number in {"OK": 1, "skip": 7, "NOK": 3, "defect:scratch": 3, "unmasked": 3}.items():
        one.page.select_option("#filter", choice)
        one.wait_for("#name", f"crop_00{number}.png")
        assert one.text("#position") == "1 / 1"
    one.page.select_option("#filter", "untyped")
    one.wait_for("#empty", "The end of")


def test_a_damaged_crop_can_only_be_skipped(desk: Open, folder: Path, store: Store):
    (folder / "crop_000.png").write_bytes(b"damaged")
    one = desk()
    one.wait_for("#empty", "cannot be shown")
    one.press("o", "n", "1", "Space")
    one.wait_for("#name", "crop_001.png")
    assert {key: answer.label for key, answer in store.answers.items()} == {"crop_000.png": "skip"}


def test_two_tabs_see_each_other(desk: Open):
    one, other = desk(), desk()
    one.answer("o", "o", "n")
    other.answer("ArrowRight", "ArrowRight", "ArrowRight", "o")
    assert "4 / 24" in other.text("#counts")


def test_undo_takes_back_the_last_answer_of_its_own_page(desk: Open, store: Store):
    one, other = desk(), desk()
    one.answer("o", "o")
    other.answer("ArrowRight", "n", "3")  # crops 1 and 2; to crop 1 the first page gave another answer
    one.press("u")
    one.wait_for("#banner", "crop_001.png was answered elsewhere since, so nothing is undone")
    one.press("u")
    one.wait_for("#status", "undone: crop_000.png")
    assert {key: answer.label for key, answer in store.answers.items()} == {
        "crop_000.png": None, "crop_001.png": "NOK", "crop_002.png": "NOK"
    }  # fmt: skip


def test_keys_meant_for_a_control_do_not_answer(desk: Open, store: Store):
    one = desk()
    one.press("?")
    one.page.wait_for_selector("#help[open]")
    one.press("o", "Escape")
    one.page.focus("#filter")
    one.press("8")
    one.page.focus("#help-open")
    one.press("Space")
    one.page.wait_for_selector("#help[open]")
    one.press("Escape", "Control+o", "Alt+n", "Meta+1")
    assert store.version == 0
    one.page.click("#answers [data-label=skip]")
    one.wait_for("#name", "crop_001.png")
    one.answer("Space")  # the clicked button has let go of the keyboard
    assert store.version == 2
