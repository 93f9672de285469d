"""A real browser, for the tests and benchmarks of pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip


@contextmanager
def opened(browser: Any, address: str, width: int = 1280, height: int = 720) -> Iterator[Any]:
    """A page; at the end none of its scripts has failed."""
    page, errors = browser.new_page(viewport={"width": width, "height": height}), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        page.goto(address)
        yield page
        assert errors == []
    finally:
        page.close()


@contextmanager
def chromium(path: str | None = None) -> Iterator[Any]:
    """A headless Chromium as Playwright drives it. path: by default that of the environment variable CHROMIUM.

    Errors: LookupError, which says what is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise LookupError("Playwright is not installed") from error
    path = path or os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise LookupError("there is no Chromium: install it or name it in the environment variable CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
