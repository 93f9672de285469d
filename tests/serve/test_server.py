"""The inspection server answers what predict answers, and says clearly what it does not take."""

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from anomalib_lite.engine.judging import Judging
from anomalib_lite.engine.predict import open_run
from anomalib_lite.serve.batches import Batches, Full
from anomalib_lite.serve.server import Limits, build_app, gated
from anomalib_lite.web import bind, serving
from tests.commands import one_thread
from tests.corpus import READ, REFUSED, fill

TOKEN = "the-token-of-the-tests"


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def start(judging: Judging, limits: Limits, token: str = "") -> tuple[int, Any]:
    listening = bind("127.0.0.1", 0)
    running = serving(gated(build_app(judging, limits), listening, "127.0.0.1", token), 30)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)

    def end() -> None:
        running.should_exit = True
        thread.join(30)
        listening.close()

    return listening.getsockname()[1], end


@pytest.fixture(scope="module")
def judging(smoke_run: Path) -> Judging:
    return Judging(open_run(smoke_run))


@pytest.fixture(scope="module")
def port(judging: Judging) -> Iterator[int]:
    port, end = start(judging, Limits(body=2**20, pixels=10**6, room=4))
    yield port
    end()


def test_answers_are_those_of_predict_with_an_overlay_where_it_is_asked_for(
    port: int, judging: Judging, small_panels: Path
):
    for path in (small_panels / "test/stain/000.png", small_panels / "test/good/000.png"):
        status, _, body = ask(port, "POST", "/predict?overlay=base64&name=a.png", path.read_bytes())
        answer = json.loads(body)
        assert status == 200, answer
        record = judging.record(judging.inspect(judging.judge([judging.open(path)])[0]))
        assert answer["score"] == pytest.approx(record["score"], rel=1e-6) and answer["nok"] == record["nok"]
        assert [d["box"] for d in answer["defects"]] == [d["box"] for d in record["defects"]]
        assert answer["image"] == "a.png" and answer["threshold"] == judging.trained.threshold.image
        picture = np.frombuffer(base64.b64decode(answer["overlay"].partition(",")[2]), np.uint8)
        assert cv2.imdecode(picture, cv2.IMREAD_COLOR).shape == (96, 96, 3) == (answer["height"], answer["width"], 3)
    link = json.loads(ask(port, "POST", "/predict?overlay=link", path.read_bytes())[2])["overlay"]
    status, headers, body = ask(port, "GET", link)
    assert status == 200 and headers["content-type"] == "image/jpeg" and body[:2] == b"\xff\xd8"
    assert "overlay" not in json.loads(ask(port, "POST", "/predict", path.read_bytes())[2])


def test_what_cannot_be_answered_is_said_and_the_next_request_is_answered(port: int, small_panels: Path):
    good = (small_panels / "test/good/000.png").read_bytes()
    bomb = cv2.imencode(".png", np.zeros((1200, 1200), np.uint8))[1].tobytes()
    cases = [
        (b"", 422),
        (b"no image", 422),
        (good[: len(good) // 2], 422),
        (bomb, 422),
        (bytes(2**20 + 1), 413),
        (bytes(2**26), 413),
    ]
    for body, wanted in cases:
        status, _, answer = ask(port, "POST", "/predict", body)
        assert (status, "detail" in json.loads(answer)) == (wanted, True), answer
    status, _, answer = ask(port, "POST", "/predict", iter([bytes(2**19)] * 4))  # of no length
    assert status == 413, answer
    assert ask(port, "POST", "/predict?overlay=all", good)[0] == 422
    with socket.create_connection(("127.0.0.1", port)) as gone:  # a client that stops in the middle
        gone.sendall(f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: 5000\r\n\r\n".encode())
        gone.sendall(b"half")
    assert ask(port, "POST", "/predict", good)[0] == 200
    until = time.monotonic() + 30
    while b'status="499"} 1.0' not in (numbers := ask(port, "GET", "/metrics")[2]):
        assert time.monotonic() < until
    assert b'anomalib_lite_answers_total{status="413"} 3.0' in numbers and b"anomalib_lite_under_way 0.0" in numbers
    assert json.loads(ask(port, "GET", "/healthz")[2])["state"] == "ready"


def test_who_finds_no_room_is_told_when_to_come_again(port: int, small_panels: Path):
    holding = []
    for _ in range(4):
        holding.append(socket.create_connection(("127.0.0.1", port)))
        head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: 50\r\n\r\n"
        holding[-1].sendall(head.encode())
    until = time.monotonic() + 30
    while json.loads(ask(port, "GET", "/healthz")[2])["under_way"] < 4:
        assert time.monotonic() < until
    status, headers, _ = ask(port, "POST", "/predict", (small_panels / "test/good/000.png").read_bytes())
    assert status == 503 and int(headers["retry-after"]) >= 1
    for connection in holding:
        connection.close()
    while json.loads(ask(port, "GET", "/healthz")[2])["under_way"]:
        assert time.monotonic() < until


def test_pages_of_other_sites_may_not_speak_to_it(port: int):
    assert ask(port, "POST", "/predict", b"x", origin="http://evil.example")[0] == 403
    assert ask(port, "GET", "/about", host="evil.example")[0] == 421
    assert ask(port, "DELETE", "/predict")[0] == 405
    status, headers, page = ask(port, "GET", "/")
    assert status == 200 and "unsafe" not in headers["content-security-policy"] and b"app.js" in page
    assert ask(port, "GET", "/static/app.js")[0] == 200 and ask(port, "GET", "/static/../server.py")[0] in (400, 404)


def test_another_host_wants_a_token(judging: Judging, small_panels: Path):
    port, end = start(judging, Limits(), TOKEN)
    good = (small_panels / "test/good/000.png").read_bytes()
    try:
        for path in ("/predict", "/metrics", "/about", "/overlay/x"):
            assert ask(port, "POST" if path == "/predict" else "GET", path, good)[0] == 401
        assert ask(port, "POST", "/predict", good, authorization="Bearer " + TOKEN[:-1])[0] == 401
        assert ask(port, "POST", "/predict", good, authorization="Bearer " + TOKEN)[0] == 200
        assert ask(port, "GET", "/healthz")[0] == 200
    finally:
        end()


def test_a_server_for_others_wants_the_variables_token_and_inspects_the_region_it_is_told(
    smoke_run: Path, small_panels: Path, tmp_path: Path
):
    good = (small_panels / "test/good/000.png").read_bytes()
    shape = cv2.imdecode(np.frombuffer(good, np.uint8), 1).shape[:2]
    left = np.zeros(shape, np.uint8)
    left[:, : shape[1] // 2] = 255
    cv2.imwrite(str(tmp_path / "left.png"), left)
    command = [sys.executable, "-m", "anomalib_lite.cli", "serve", f"run={smoke_run}", "port=0", "host=0.0.0.0"]
    command += [f"roi={tmp_path}/left.png"]
    settings = one_thread(ANOMALIB_LITE_TOKEN=TOKEN)
    running = subprocess.Popen(command, cwd=tmp_path, env=settings, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in running.stderr if "inspecting at" in line)
        port = int(re.search(r":(\d+)", line.split("inspecting at")[1])[1])
        assert TOKEN not in line and ask(port, "POST", "/predict", good)[0] == 401
        status, _, body = ask(port, "POST", "/predict", good, authorization=f"Bearer {TOKEN}")
        half = Judging(open_run(smoke_run).within(f"{tmp_path}/left.png", None))
        known = half.judge([half.open(small_panels / "test/good/000.png")])[0].outcome.score
        assert status == 200 and json.loads(body)["score"] == pytest.approx(known, rel=1e-6)
    finally:
        running.kill()
        running.wait()


def test_it_takes_the_files_that_predict_takes(judging: Judging, tmp_path: Path):
    fates = {name: fate for name, fate in fill(tmp_path / "corpus").items() if fate in (READ, REFUSED)}
    port, end = start(judging, Limits(body=2**25, pixels=2**26, room=4))
    try:
        for name, fate in fates.items():
            path = tmp_path / "corpus" / name
            if path.is_file():
                status, _, body = ask(port, "POST", f"/predict?name={quote(os.fsencode(name))}", path.read_bytes())
                assert status == (200 if fate == READ else 422), (name, body)
    finally:
        end()


def test_what_waits_together_is_judged_together_and_an_error_is_the_requests_alone():
    sizes, go = [], threading.Event()

    def judge(pictures: Any) -> list[Any]:
        go.wait(10)
        sizes.append(len(pictures))
        if "bad" in pictures:
            raise ValueError("bad")
        return [picture * 2 for picture in pictures]

    batches = Batches(judge, at_once=4, room=2)
    first = batches.submit(1)
    while not first.running():
        time.sleep(0.005)
    rest = [batches.submit(k) for k in range(2, 8)]
    go.set()
    assert [future.result(10) for future in [first, *rest]] == [2 * k for k in range(1, 8)]
    assert sizes == [1, 4, 2]
    with pytest.raises(ValueError, match="bad"):
        batches.submit("bad").result(10)
    assert batches.submit(5).result(10) == 10
    with batches.admitted(), batches.admitted(), pytest.raises(Full, match="try again"), batches.admitted():
        pass
    assert batches.under_way == 0


def test_sigterm_ends_it_after_what_it_has_accepted(smoke_run: Path, small_panels: Path, tmp_path: Path):
    command = [sys.executable, "-m", "anomalib_lite.cli", "serve", f"run={smoke_run}", "port=0"]
    running = subprocess.Popen(command, cwd=tmp_path, env=one_thread(), stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in running.stderr if "inspecting at" in line)
        port = int(line.split("127.0.0.1:")[1].split()[0])
        good = (small_panels / "test/good/000.png").read_bytes()
        with ThreadPoolExecutor(6) as pool:
            replies = [pool.submit(ask, port, "POST", "/predict", good) for _ in range(6)]
            while json.loads(ask(port, "GET", "/healthz")[2])["under_way"] < 2 and not replies[-1].done():
                pass
            os.kill(running.pid, signal.SIGTERM)
            done = [reply for reply in replies if reply.exception() is None]
        assert done and {reply.result()[0] for reply in done} == {200}
        assert running.wait(60) == 0 and "stopped" in running.stderr.read()
    finally:
        running.kill()
        running.wait()


def test_the_page_shows_the_overlay_and_the_defects(port: int, browser: Any, small_panels: Path):
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    try:
        page.goto(f"http://127.0.0.1:{port}/")
        page.set_input_files("#files", [small_panels / "test/good/000.png", small_panels / "test/stain/000.png"])
        page.locator("#strip button").nth(1).wait_for()
        assert page.inner_text("#verdict b") == "NOK" and page.locator("tbody tr").count() >= 1
        assert page.locator("#boxes rect").count() == page.locator("tbody tr").count()
        assert page.evaluate("document.querySelector('#overlay').complete") and not wrong
        page.set_input_files("#files", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
        page.wait_for_selector("#banner:not([hidden])")
        assert "a.png" in page.inner_text("#banner")
        if place := os.environ.get("ANOMALIB_LITE_SCREENSHOTS"):
            page.screenshot(path=f"{place}/serve.png")
    finally:
        page.close()
