"""What the page shows, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate.crops import Score

from .browser import Desk

Open = Callable[..., Desk]


def pixels(one: Desk, selector: str) -> np.ndarray:
    png = np.frombuffer(one.page.locator(selector).screenshot(), np.uint8)
    image = cv2.imdecode(png, cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    return image[height // 3 : -(height // 3), width // 3 : -(width // 3)]


def test_the_difference_and_the_blink_compare_with_the_template(desk: Open, tmp_path: Path) -> None:
    template = tmp_path / "template.png"
    cv2.imwrite(str(template), np.full((40, 60, 3), 40, np.uint8))  # as crop_000, of another size
    one = desk(template=template)
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


def test_without_a_template_the_last_ok_crop_takes_its_place(desk: Open) -> None:
    one = desk()
    assert one.page.is_disabled("[data-command=blink]")
    one.answer("n", "o")
    assert one.page.inner_text("#reference-caption") == "OK crop crop_001.png"
    assert one.page.is_enabled("[data-command=blink]")


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080)])
def test_everything_fits_and_every_control_has_a_name(desk: Open, size: tuple[int, int]) -> None:
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
