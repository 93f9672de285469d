"""Crops to label, and servers to label them with."""

import csv
import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import uvicorn

from anomalib_lite.annotate.crops import Crop, find_crops
from anomalib_lite.annotate.server import Labelling, build_app, listen
from anomalib_lite.annotate.store import Store
from anomalib_lite.web import Guard, allowed_hosts

from .browser import DEFECTS, SIZE, Desk

TOKEN = "the-token-of-the-tests"


def write_crops(folder: Path, number: int, size: tuple[int, int] = (48, 32)) -> list[str]:
    """Crops of `size` (width, height), each of its own grey, named crop_000.png and on."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"crop_{i:03d}.png" for i in range(number)]
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((size[1], size[0], 3), 40 + 4 * i, np.uint8))
    return names


def nth(store: Store, number: int) -> Crop:
    return list(store.crops.values())[number]


def rows_of(folder: Path) -> list[list[str]]:
    """labels.csv, its header included."""
    with open(folder / "labels.csv", newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def drawn_mask(size: tuple[int, int] = (48, 32), box: tuple[int, int, int, int] = (4, 5, 10, 9)) -> bytes:
    """What the page sends: a PNG with the mask, a rectangle x, y, width, height, in its alpha channel."""
    image = np.zeros((size[1], size[0], 4), np.uint8)
    x, y, width, height = box
    image[y : y + height, x : x + width] = (163, 79, 255, 255)
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture
def crops_folder(tmp_path: Path) -> Path:
    write_crops(tmp_path / "crops", 6)
    return tmp_path / "crops"


@pytest.fixture
def open_store(crops_folder: Path) -> Iterator[Callable[[], Store]]:
    """Opens the folder's store as often as wanted; each closes the one before, as a new start does."""
    opened: list[Store] = []

    def open_again() -> Store:
        for store in opened:
            store.close()
        opened.append(Store(find_crops(crops_folder)))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Speaks HTTP as it stands: no path is tidied up and no header added that was not asked for."""

    port: int
    token: str = TOKEN

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            sent = {"host": f"127.0.0.1:{self.port}", **(headers or {})}
            if body is not None:
                sent.setdefault("content-length", str(len(body)))
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        wanted = {"content-type": "application/json", "x-annotate-token": self.token, **headers}
        return self.send("POST", path, content, wanted)


@pytest.fixture
def serve_app() -> Iterator[Callable[[Labelling], Client]]:
    """Serves a labelling job in a thread, guarded as in earnest."""
    running: list[tuple[uvicorn.Server, threading.Thread, Any]] = []

    def start(labelling: Labelling) -> Client:
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        app = Guard(build_app(labelling, TOKEN), allowed_hosts("127.0.0.1", port), TOKEN)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        running.append((server, thread, listening))
        return Client(port)

    yield start
    for server, thread, listening in running:
        server.should_exit = True
        thread.join(timeout=10)
        listening.close()


def token_of(page: str) -> str:
    return re.search(r'name="annotate-token" content="([^"]+)"', page)[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 crops, large enough to draw on."""
    write_crops(tmp_path / "crops", 24, SIZE)
    return tmp_path / "crops"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    opened = Store(find_crops(folder))
    yield opened
    opened.close()


@pytest.fixture
def desk(browser: Any, store: Store, serve_app: Callable[[Labelling], Client]) -> Iterator[Callable[..., Desk]]:
    """Opens the page in as many tabs as wanted; none may have an error or ask another server for anything."""
    desks: list[Desk] = []
    served: list[str] = []

    def open_page(size: tuple[int, int] = (1280, 720), **options: Any) -> Desk:
        if not served:
            served.append(f"http://127.0.0.1:{serve_app(Labelling(store, DEFECTS, **options)).port}/")
        desks.append(Desk(browser, served[0], size))
        return desks[-1]

    yield open_page
    for one in desks:
        assert one.complaints == []
        assert [url for url in one.requests if not url.startswith((served[0], "data:", "blob:"))] == []
        one.page.close()
