"""A real browser for the page, and a server process that can be killed."""

import csv
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIZE = (96, 64)  # of the crops, width and height
DEFECTS = (  # as conf/annotate.yaml has them
    *("print_blurred", "print_smeared", "print_missing", "structure_broken", "structure_bent", "structure_missing"),
    *("structure_extra", "scratch", "stain"),
)


class ServerProcess:
    """`anomalib-lite annotate` in a process of its own."""

    def __init__(self, crops: Path, port: int = 0) -> None:
        options = [f"crops={crops}", f"port={port}", "open_browser=false"]
        command = [sys.executable, "-m", "anomalib_lite.cli", "annotate", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log = ""
        while (found := re.search(r"http://127\.0\.0\.1:(\d+)", self.log)) is None:
            line = self.process.stderr.readline()
            if not line:
                raise RuntimeError(f"the server did not start: {self.log}")
            self.log += line
        self.port = int(found[1])
        self.url = found[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.close()

    def interrupt(self) -> int:
        """Ctrl+c, and what the process then says."""
        self.process.send_signal(signal.SIGINT)
        self.log += self.process.communicate(timeout=20)[1]
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


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

    @property
    def name(self) -> str:
        return self.page.inner_text("#name")

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
        """Along points given in pixels of the crop, at zoom 1."""
        box = self.page.locator("#stage").bounding_box()
        inside = [box["width"] - 2, box["height"] - 2]
        scale = min(inside[0] / SIZE[0], inside[1] / SIZE[1])
        places = [
            (
                box["x"] + box["width"] / 2 + (x - SIZE[0] / 2) * scale,
                box["y"] + box["height"] / 2 + (y - SIZE[1] / 2) * scale,
            )
            for x, y in points
        ]
        self.page.mouse.move(*places[0])
        self.page.mouse.down(button=button)
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        with self.saves_a_mask():
            self.page.mouse.up(button=button)

    def saves_a_mask(self) -> Any:
        """A context that ends when the server has answered to a mask."""
        return self.page.expect_response(lambda response: "/api/mask/" in response.url)


def rows(folder: Path) -> dict[str, tuple[str, str, str]]:
    with open(folder / "labels.csv", newline="", encoding="utf-8") as stream:
        return {row["crop"]: (row["label"], row["defect"], row["mask"]) for row in csv.DictReader(stream)}


def mask_of(folder: Path, name: str = "crop_000.png") -> np.ndarray:
    return cv2.imread(str(folder / "masks" / name), cv2.IMREAD_UNCHANGED)
