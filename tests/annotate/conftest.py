"""Crops to label, servers to label them with, and the page in a real browser."""

import csv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate.crops import Crop, Score, find_crops
from anomalib_lite.annotate.server import build_app
from anomalib_lite.annotate.store import Store
from tests.made import write_pixels
from tests.servers import TOKEN, Client, served

SIZE = (96, 64)  # of the crops, width and height
DEFECTS = (  # as `annotate --help` shows them
    *("print_blurred", "print_smeared", "print_missing", "structure_broken", "structure_bent", "structure_missing"),
    *("structure_extra", "scratch", "stain"),
)
Row = tuple[str, str, str]


def write_crops(folder: Path, number: int) -> None:
    """Crops of SIZE, each of its own grey, named crop_000.png and on."""
    for i in range(number):
        write_pixels(folder / f"crop_{i:03d}.png", np.full((SIZE[1], SIZE[0], 3), 40 + 4 * i, np.uint8))


def nth(store: Store, number: int) -> Crop:
    return list(store.crops.values())[number]


def rows(folder: Path) -> dict[str, Row]:
    """Crop -> label, defect, mask, in the order of labels.csv."""
    with open(folder / "labels.csv", newline="", encoding="utf-8") as stream:
        return {row["crop"]: (row["label"], row["defect"], row["mask"]) for row in csv.DictReader(stream)}


def mask_of(folder: Path, name: str = "crop_000.png") -> np.ndarray:
    return cv2.imread(str(folder / "masks" / name), cv2.IMREAD_UNCHANGED)


def drawn_mask(box: tuple[int, int, int, int] = (4, 5, 10, 9), size: tuple[int, int] = SIZE) -> bytes:
    """What the page sends: a PNG with the mask, a rectangle x, y, width, height, in its alpha channel."""
    image = np.zeros((size[1], size[0], 4), np.uint8)
    x, y, width, height = box
    image[y : y + height, x : x + width] = (163, 79, 255, 255)
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 crops, large enough to draw on."""
    write_crops(tmp_path / "crops", 24)
    return tmp_path / "crops"


@pytest.fixture
def open_store(folder: Path) -> Iterator[Callable[[], Store]]:
    """Opens the folder's store as often as wanted; each closes the one before, as a new start does."""
    with ExitStack() as opened:

        def open_again() -> Store:
            opened.close()
            return opened.enter_context(closing(Store(find_crops(folder))))

        yield open_again


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()


@pytest.fixture
def serve(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Client]]:
    """Serves the labelling of `store` in a thread, guarded as in earnest."""
    monkeypatch.setattr("secrets.token_urlsafe", lambda length: TOKEN)
    with ExitStack() as running:

        def start(template: Path | None = None, scores: dict[str, Score] | None = None) -> Client:
            app = partial(build_app, store, DEFECTS, template, scores or {}, "127.0.0.1")
            return running.enter_context(served(app, TOKEN))

        yield start


@pytest.fixture
def client(serve: Callable[..., Client]) -> Client:
    return serve()


class Desk:
    """The page as a person meets it."""

    def __init__(self, browser: Any, url: str, size: tuple[int, int] = (1280, 720)) -> None:
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.page.set_default_timeout(8000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("#stage img.crop[alt^=Crop]", state="attached")

        self.text = self.page.inner_text

    @property
    def name(self) -> str:
        return self.text("#name")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def answer(self, *keys: str) -> None:
        """Presses a key and waits for what follows it: another crop, or the end."""
        for key in keys:
            before = self.name
            self.press(key)
            self.page.wait_for_function(
                "name => document.querySelector('#name').textContent !== name || "
                "!document.querySelector('#empty').hidden",
                arg=before,
            )

    def wait_for(self, selector: str, text: str) -> None:
        self.page.wait_for_function(
            "([selector, text]) => document.querySelector(selector).textContent.includes(text)", arg=[selector, text]
        )

    def drag(self, *points: tuple[float, float], button: str = "left") -> None:
        """Along points given in pixels of the crop, at zoom 1; ends when the mask is saved."""
        box = self.page.locator("#stage").bounding_box()
        scale = min((box["width"] - 2) / SIZE[0], (box["height"] - 2) / SIZE[1])
        left, top = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        first, *others = [(left + (x - SIZE[0] / 2) * scale, top + (y - SIZE[1] / 2) * scale) for x, y in points]
        self.page.mouse.move(*first)
        self.page.mouse.down(button=button)
        for place in others:
            self.page.mouse.move(*place, steps=4)
        with self.saves_a_mask():
            self.page.mouse.up(button=button)

    def saves_a_mask(self) -> Any:
        """A context that ends when the server has answered to a mask."""
        return self.page.expect_response(lambda response: "/api/mask/" in response.url)


@pytest.fixture
def desk(browser: Any, serve: Callable[..., Client]) -> Iterator[Callable[..., Desk]]:
    """Opens the page in as many tabs as wanted; none may have an error or ask another server for anything."""
    desks: list[Desk] = []
    urls: list[str] = []

    def open_page(size: tuple[int, int] = (1280, 720), **options: Any) -> Desk:
        if not urls:
            urls.append(f"http://127.0.0.1:{serve(**options).port}/")
        desks.append(Desk(browser, urls[0], size))
        return desks[-1]

    yield open_page
    for one in desks:
        assert one.complaints == []
        assert [url for url in one.requests if not url.startswith((urls[0], "data:", "blob:"))] == []
        one.page.close()
