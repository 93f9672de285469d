"""What the page shows, and drawing defect masks, in a real browser."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate.crops import Score
from tests.made import write_pixels

from .conftest import Desk, mask_of, rows

Open = Callable[..., Desk]


def pixels(one: Desk, selector: str) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(one.page.locator(selector).screenshot(), np.uint8), cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    return image[height // 3 : -(height // 3), width // 3 : -(width // 3)]


def test_the_difference_and_the_blink_compare_with_the_template(desk: Open, tmp_path: Path):
    grey = np.full((40, 60, 3), 40, np.uint8)  # as crop_000, of another size
    one = desk(template=write_pixels(tmp_path / "template.png", grey))
    one.page.mouse.move(0, 0)
    assert pixels(one, "#difference-pane").max() == 0
    one.answer("o", "o", "o", "o")
    assert pixels(one, "#difference-pane").mean() == pytest.approx(16 * 3, abs=3)
    assert pixels(one, "#reference-pane").mean() == pytest.approx(40, abs=1)
    assert pixels(one, "#stage").mean() == pytest.approx(56, abs=1)
    one.press("v")
    assert pixels(one, "#stage").mean() == pytest.approx(16 * 3, abs=3)
    one.press("b")
    for shown, grey in (("template", 40), ("crop", 56)):
        one.wait_for("#showing", shown)
        assert pixels(one, "#stage").mean() == pytest.approx(grey, abs=1)
    one.press("b")
    assert one.page.is_hidden("#showing")


def test_without_a_template_the_last_ok_crop_takes_its_place(desk: Open):
    one = desk()
    assert one.page.is_disabled("[data-command=blink]")
    one.answer("n", "o")
    assert one.text("#reference-caption") == "OK crop crop_001.png"
    assert one.page.is_enabled("[data-command=blink]")


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080)])
def test_everything_fits_and_every_control_has_a_name(desk: Open, size: tuple[int, int]):
    one = desk(size, scores={"crop_001.png": Score(0.123456, True)})
    one.answer("8")
    one.press("d")
    too_large = one.page.evaluate("""() =>
        ["html", "header", ".bar", "#tools", "footer", "main", "#answers", "#defects"].filter(selector => {
            const box = document.querySelector(selector);
            return box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
        })""")
    assert too_large == []
    stage = one.page.locator("#stage").bounding_box()
    assert stage["width"] * stage["height"] > 0.4 * size[0] * size[1]
    nameless = one.page.evaluate("""() =>
        [...document.querySelectorAll("button, select, input, [role=progressbar]")]
        .filter(one => !(one.ariaLabel || one.textContent.trim() || one.labels?.[0]?.textContent.trim()))
        .map(one => one.outerHTML)""")
    assert nameless == []
    assert one.page.get_attribute("#progress", "aria-valuetext").startswith("1 of 24")


def test_mask_tools_draw_erase_fill_undo_and_clear(desk: Open, folder: Path):
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


def test_a_saved_mask_is_shown_again_and_drawn_on(desk: Open, folder: Path):
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


def test_strokes_on_a_mask_that_another_page_has_changed_are_refused(desk: Open, folder: Path):
    one, other = desk(), desk()
    for page in (one, other):
        page.press("d")
    one.drag((20, 20), (40, 20))
    one.drag((20, 30), (40, 30))
    drawn = mask_of(folder)
    other.drag((20, 50), (40, 50))
    other.wait_for("#banner", "reload this page")
    other.press("n")
    other.page.wait_for_load_state("networkidle")
    assert other.name == "crop_000.png" and "reload this page" in other.text("#banner")
    np.testing.assert_array_equal(mask_of(folder), drawn)
    other.page.reload()
    other.page.wait_for_function(
        "() => document.querySelector('#mask').getContext('2d').getImageData(30, 20, 1, 1).data[3]"
    )
    other.press("d")
    other.drag((20, 50), (40, 50))
    both = mask_of(folder)
    np.testing.assert_array_equal(both[:36], drawn[:36])
    assert both[50, 20:40].all()


def test_where_no_crop_is_shown_no_mask_can_be_cleared(desk: Open, folder: Path):
    one = desk()
    one.answer("End")
    one.press("d")
    one.drag((20, 20), (40, 20))
    one.page.select_option("#filter", "skip")
    one.wait_for("#empty", "The end of")
    one.press("x", "u")
    one.wait_for("#status", "nothing to undo")
    assert mask_of(folder, "crop_023.png").any()


def test_drawing_zoomed_in_hits_the_pixels_under_the_pointer(desk: Open, folder: Path):
    one = desk()
    one.press("d", "[", "[", "[", "[", "[", "[")
    box = one.page.locator("#stage").bounding_box()
    one.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    one.press("z", "z")
    assert one.text("#zoom") == "4×"
    one.page.mouse.down()
    with one.saves_a_mask():
        one.page.mouse.up()
    ys, xs = np.nonzero(mask_of(folder))
    assert (xs.mean() + 0.5, ys.mean() + 0.5) == pytest.approx((48, 32), abs=1)
    one.press("z")
    assert one.text("#zoom") == "1×"
