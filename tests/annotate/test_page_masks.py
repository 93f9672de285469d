"""Drawing defect masks in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .browser import Desk, mask_of, rows

Open = Callable[..., Desk]


def test_mask_tools_draw_erase_fill_undo_and_clear(desk: Open, folder: Path) -> None:
    one = desk()
    one.press("d")
    one.page.evaluate(
        "document.querySelector('#size').value = 4; document.querySelector('#size').dispatchEvent(new Event('input'))"
    )
    one.drag((10, 20), (50, 20))
    line = mask_of(folder)
    assert (line > 0).sum() == pytest.approx(4 * 40 + np.pi * 4, rel=0.1)
    one.press("e")
    one.drag((30, 10), (30, 30))
    erased = mask_of(folder)
    assert not erased[:, 29:31].any() and erased[20, 12] and erased[20, 48]
    one.press("l")
    one.drag((60, 40), (80, 40), (80, 60), (60, 60))
    filled = mask_of(folder)
    assert filled[41:59, 61:79].all()
    assert (filled > 0).sum() - (erased > 0).sum() == pytest.approx(400, rel=0.1)
    one.drag((65, 45), (75, 45), (75, 55), (65, 55), button="right")
    assert not mask_of(folder)[46:54, 66:74].any()
    for expected in (filled, erased, line):
        with one.saves_a_mask():
            one.press("u")
        np.testing.assert_array_equal(mask_of(folder), expected)
    with one.saves_a_mask():
        one.press("x")
    one.wait_for("#status", "it is empty")
    assert not (folder / "masks/crop_000.png").exists()


def test_a_saved_mask_is_shown_again_and_drawn_on(desk: Open, folder: Path) -> None:
    one = desk()
    one.press("d")
    one.drag((20, 20), (40, 20))
    first = mask_of(folder)
    one.answer("8", "ArrowLeft")
    one.page.wait_for_function(
        "() => document.querySelector('#mask').getContext('2d').getImageData(30, 20, 1, 1).data[3]"
    )
    one.drag((20, 50), (40, 50))
    both = mask_of(folder)
    np.testing.assert_array_equal(both[:36], first[:36])
    assert both[50, 20:40].all()
    assert rows(folder)["crop_000.png"] == ("NOK", "scratch", "masks/crop_000.png")
    one.press("Escape", "u")
    one.wait_for("#badge", "unlabelled")
    np.testing.assert_array_equal(mask_of(folder), both)


def test_where_no_crop_is_shown_no_mask_can_be_cleared(desk: Open, folder: Path) -> None:
    one = desk()
    one.answer("End")
    one.press("d")
    one.drag((20, 20), (40, 20))
    one.page.select_option("#filter", "skip")
    one.wait_for("#empty", "The end of")
    one.press("x", "u")
    one.wait_for("#status", "nothing to undo")
    assert mask_of(folder, "crop_023.png").any()


def test_drawing_zoomed_in_hits_the_pixels_under_the_pointer(desk: Open, folder: Path) -> None:
    one = desk()
    one.press("d", "[", "[", "[", "[", "[", "[")
    box = one.page.locator("#stage").bounding_box()
    one.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    one.press("z", "z")
    assert one.page.inner_text("#zoom") == "4×"
    one.page.mouse.down()
    with one.saves_a_mask():
        one.page.mouse.up()
    ys, xs = np.nonzero(mask_of(folder))
    assert (xs.mean() + 0.5, ys.mean() + 0.5) == pytest.approx((48, 32), abs=1)
    one.press("z")
    assert one.page.inner_text("#zoom") == "1×"
