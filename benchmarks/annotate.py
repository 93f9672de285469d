"""Measures, in the labelling page itself, the time from a key to the saved answer and to the next crop.

    python benchmarks/annotate.py [--crops 500] [--size 512] [--answers 200] [--folder .]

Controls a real Chromium by keyboard. `saved` ends when the page knows that the answer is on the disk (journal synced,
labels.csv rewritten), `shown` when the next crop is in the page. Needs Playwright and Chromium.
"""

import argparse
import json
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.chromium import chromium

TARGET_MS = 50
SERVER = """
from anomalib_lite.annotate.server import run_session
run_session({crops!r}, ["scratch", "stain"], template={template!r}, port={port}, open_browser=False)
"""


def write_crops(folder: Path, number: int, size: int) -> Path:
    """Writes structured images with noise, which decode as slowly as photographs, and a template; returns its path."""
    generator = np.random.default_rng(0)
    (folder / "crops").mkdir()
    base = cv2.resize(generator.integers(0, 256, (size // 8, size // 8, 3), np.uint8), (size, size))
    for i in range(number):
        noise = generator.integers(0, 16, (size, size, 3), np.uint8)
        path = str(folder / f"crops/crop_{i:05d}.png")
        cv2.imwrite(path, cv2.add(base, noise), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    cv2.imwrite(str(folder / "template.png"), base)
    return folder / "template.png"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(port: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the server did not start")


def label(page: Any, answers: int, pause_ms: int) -> dict[str, list[float]]:
    page.wait_for_selector("#stage img.crop[alt^=Crop]")
    for i in range(answers):
        before = page.inner_text("#name")
        page.keyboard.press("on12"[i % 4])
        page.wait_for_function("name => document.querySelector('#name').textContent !== name", arg=before)
        page.wait_for_timeout(pause_ms)  # a person needs time to look
    durations = "name => performance.getEntriesByName(name).map(entry => entry.duration)"
    return {name: page.evaluate(durations, name) for name in ("answer-saved", "answer-shown")}


def summary(durations: list[float]) -> dict[str, float]:
    return {
        "median_ms": round(statistics.median(durations), 1),
        "p95_ms": round(float(np.percentile(durations, 95)), 1),
        "max_ms": round(max(durations), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crops", type=int, default=500, help="number of crops in the folder")
    parser.add_argument("--size", type=int, default=512, help="side of a crop in px")
    parser.add_argument("--answers", type=int, default=200, help="number of crops to answer")
    parser.add_argument("--pause", type=int, default=100, help="ms between an answer and the next key")
    parser.add_argument("--folder", type=Path, default=None, help="folder on the disk to measure")
    parser.add_argument("--chromium", default=None, help="path of the browser")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name, chromium(options.chromium) as browser:
        template = write_crops(Path(name), options.crops, options.size)
        port = free_port()
        code = SERVER.format(crops=str(Path(name) / "crops"), template=str(template), port=port)
        server = subprocess.Popen([sys.executable, "-c", code])
        try:
            wait_for(port)
            page = browser.new_page(viewport={"width": 1920, "height": 1080})
            page.goto(f"http://127.0.0.1:{port}/")
            durations = label(page, min(options.answers, options.crops - 1), options.pause)
        finally:
            server.terminate()
            server.wait(timeout=20)
    result = {
        "crops": options.crops,
        "size": options.size,
        "answers": len(durations["answer-saved"]),
        "saved": summary(durations["answer-saved"]),
        "shown": summary(durations["answer-shown"]),
        "target_ms": TARGET_MS,
        "met": summary(durations["answer-saved"])["median_ms"] < TARGET_MS,
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
