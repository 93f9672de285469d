"""Names of files and defects that are markup stay text on every page, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import opened
from tests.commands import Command, only_run
from tests.made import write_image
from tests.servers import started

IMAGE, SCRIPT = "<img src=x onerror=hacked()>", "<script>hacked()</script>"  # in a path the slash parts folder and file
FOUND = "[...document.querySelectorAll('*')].filter(e => e.onerror || /^hacked/.test(e.innerHTML)).length"


@contextmanager
def unharmed(browser: Any, address: str) -> Iterator[Any]:
    """The page; at the end nothing of what was planted is an element of it, or has run (`hacked` would be an error)."""
    with opened(browser, address) as page:
        yield page
        page.wait_for_load_state("networkidle")
        assert page.evaluate(FOUND) == 0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(10):
        write_image(tmp_path / f"photos/ok/{IMAGE}{number}.png", number)
    for place in (f"{IMAGE}/{IMAGE}.png", f"{SCRIPT}.png", "plain/0.png"):
        write_image(tmp_path / "photos/nok" / place, len(place), mark=True)
    return tmp_path / "photos"


@pytest.mark.slow
def test_markup_in_names_stays_text(run_verb: Command, browser: Any, photos: Path, tmp_path: Path):
    words = ["preset=smoke", "detector=padim", "image_size=64", "tracking=csv", "data=folder", f"data.root={photos}"]
    done = run_verb("train", *words, "data.ok=ok", "data.nok=nok/*", "threads=1")
    assert done.status == 0, done.err
    run = only_run(tmp_path)
    with unharmed(browser, (run / "report.html").as_uri()) as page:
        text = page.evaluate("document.body.textContent")
        assert IMAGE in text and SCRIPT.split("/")[0] in text
    assert run_verb("compare", "runs=runs/default").status == 0
    (compared,) = tmp_path.rglob("compare.html")
    with unharmed(browser, compared.as_uri()):
        pass
    with started("serve", f"run={run}", "port=0") as (_, address, _), unharmed(browser, address) as page:
        page.set_input_files("#files", photos / "nok" / IMAGE / f"{IMAGE}.png")
        page.locator("#strip button").wait_for()
        assert IMAGE in page.inner_text("#name")


def test_markup_in_crops_and_defects_stays_text(browser: Any, photos: Path):
    options = [f"crops={photos}/ok", f"types={json.dumps([SCRIPT, IMAGE])}", "open_browser=false", "port=0"]
    with started("annotate", *options) as (_, address, _), unharmed(browser, address) as page:
        page.wait_for_selector("#stage img.crop[alt^=Crop]", state="attached")
        assert IMAGE in page.inner_text("#name")
        text = page.evaluate("document.body.textContent")
        assert IMAGE in text and SCRIPT in text
        with page.expect_response(lambda response: "/api/answer" in response.url):
            page.keyboard.press("1")
    assert SCRIPT in (photos / "ok/labels.csv").read_text()
