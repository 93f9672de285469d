"""The inspection server answers what predict answers, and says clearly what it does not take."""

import base64
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from anomalib_lite.engine.predict import TrainedRun, open_run
from anomalib_lite.serve.server import Batches, Limits, _token, build_app, guarded
from tests.chromium import opened
from tests.corpus import READ, REFUSED, fill
from tests.made import write_pixels
from tests.servers import TOKEN, Client, served, started

HALF = "POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-length: 5000\r\n\r\nhalf"  # of a request


def serve(trained: TrainedRun, limits: Limits, token: str = "") -> AbstractContextManager[Client]:
    app = build_app(trained, limits)
    return served(lambda port: guarded(app, "127.0.0.1", port, token))


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until


@pytest.fixture(scope="module")
def trained(smoke_run: Path) -> TrainedRun:
    return open_run(smoke_run)


@pytest.fixture(scope="module")
def client(trained: TrainedRun) -> Iterator[Client]:
    with serve(trained, Limits(body=2**20, pixels=10**6, requests=4)) as client:
        yield client


@pytest.fixture(scope="module")
def good(small_panels: Path) -> bytes:
    return (small_panels / "test/good/000.png").read_bytes()


def test_answers_are_those_of_predict_with_an_overlay_where_it_is_asked_for(
    client: Client, trained: TrainedRun, small_panels: Path
):
    for path in (small_panels / "test/stain/000.png", small_panels / "test/good/000.png"):
        reply = client.post("/predict?overlay=base64&name=a.png", path.read_bytes())
        answer = reply.json
        assert reply.status == 200, answer
        record = trained.record(trained.inspect(trained.answers([trained.open(path)])[0]))
        assert answer["score"] == pytest.approx(record["score"], rel=1e-6) and answer["nok"] == record["nok"]
        assert [d["box"] for d in answer["defects"]] == [d["box"] for d in record["defects"]]
        assert answer["image"] == "a.png" and answer["threshold"] == trained.threshold.image
        picture = np.frombuffer(base64.b64decode(answer["overlay"].partition(",")[2]), np.uint8)
        assert cv2.imdecode(picture, cv2.IMREAD_COLOR).shape == (96, 96, 3) == (answer["height"], answer["width"], 3)
    link = client.get(client.post("/predict?overlay=link", path.read_bytes()).json["overlay"])
    assert link.status == 200 and link.headers["content-type"] == "image/jpeg" and link.body[:2] == b"\xff\xd8"
    assert "overlay" not in client.post("/predict", path.read_bytes()).json


def test_what_cannot_be_answered_is_said_and_the_next_request_is_answered(client: Client, good: bytes):
    bomb = cv2.imencode(".png", np.zeros((1200, 1200), np.uint8))[1].tobytes()
    cases = [(b"", 422), (b"no image", 422), (good[: len(good) // 2], 422), (bomb, 422)]
    cases += [(bytes(2**20 + 1), 413), (bytes(2**26), 413), (iter([bytes(2**19)] * 4), 413)]  # the last of no length
    for body, wanted in cases:
        reply = client.post("/predict", body)
        assert (reply.status, "detail" in reply.json) == (wanted, True), reply.body
    assert client.post("/predict?overlay=all", good).status == 422
    with create_connection(("127.0.0.1", client.port)) as gone:  # a client that stops in the middle
        gone.sendall(HALF.format(client.port).encode())
    assert client.post("/predict", good).status == 200
    wait_until(lambda: b'status="499"} 1.0' in client.get("/metrics").body)
    numbers = client.get("/metrics").body
    assert b'anomalib_lite_answers_total{status="413"} 3.0' in numbers and b"anomalib_lite_under_way 0.0" in numbers
    assert client.get("/healthz").json["state"] == "ready"


def test_who_finds_no_room_is_told_when_to_come_again(client: Client, good: bytes):
    with ExitStack() as holding:
        for _ in range(4):
            connection = holding.enter_context(create_connection(("127.0.0.1", client.port)))
            connection.sendall(HALF.format(client.port).encode())
        wait_until(lambda: client.get("/healthz").json["under_way"] == 4)
        reply = client.post("/predict", good)
        assert reply.status == 503 and int(reply.headers["retry-after"]) >= 1
    wait_until(lambda: client.get("/healthz").json["under_way"] == 0)


def test_pages_of_other_sites_may_not_speak_to_it(client: Client):
    assert client.post("/predict", b"x", origin="http://evil.example").status == 403
    assert client.get("/about", host="evil.example").status == 421
    page = client.get("/")
    assert page.status == 200 and "unsafe" not in page.headers["content-security-policy"] and b"app.js" in page.body
    assert client.get("/static/app.js").status == 200 and client.get("/static/../server.py").status == 404


def test_another_host_wants_a_token(trained: TrainedRun, good: bytes):
    with serve(trained, Limits(2**20, 10**6, 4), TOKEN) as client:
        for path in ("/predict", "/metrics", "/about", "/overlay/x"):
            assert client.ask("POST" if path == "/predict" else "GET", path, good).status == 401
        assert client.post("/predict", good, authorization="Bearer " + TOKEN[:-1]).status == 401
        assert client.post("/predict", good, authorization="Bearer " + TOKEN).status == 200
        assert client.get("/healthz").status == 200


def test_a_token_that_is_made_is_told_even_if_the_variable_is_there_but_empty(monkeypatch, caplog):
    monkeypatch.setenv("ANOMALIB_LITE_TOKEN", "")
    with caplog.at_level("INFO"):
        assert _token() in caplog.text


def test_a_server_for_others_wants_the_variables_token_inspects_its_region_and_ends_after_what_it_has_accepted(
    smoke_run: Path, small_panels: Path, good: bytes, tmp_path: Path
):
    left = np.zeros((96, 96), np.uint8)
    left[:, :48] = 255
    roi = str(write_pixels(tmp_path / "left.png", left))
    options = [f"run={smoke_run}", "port=0", "host=0.0.0.0", f"roi={roi}"]
    with (
        started("serve", *options, ANOMALIB_LITE_TOKEN=TOKEN) as (process, url, said),
        ThreadPoolExecutor(6) as pool,
    ):
        client = Client(int(url.rpartition(":")[2]))
        assert TOKEN not in said and client.post("/predict", good).status == 401
        client.token = TOKEN
        reply = client.post("/predict", good)
        half = open_run(smoke_run).with_region(roi, None)
        known = half.answers([half.open(small_panels / "test/good/000.png")])[0].outcome.score
        assert reply.status == 200 and reply.json["score"] == pytest.approx(known, rel=1e-6)
        replies = [pool.submit(client.post, "/predict", good) for _ in range(6)]
        while client.get("/healthz").json["under_way"] < 2 and not replies[-1].done():
            pass
        process.terminate()
        done = [reply for reply in replies if reply.exception() is None]
        assert done and {reply.result().status for reply in done} == {200}
        assert process.wait(60) == 0 and "stopped" in process.stderr.read()


def test_it_takes_the_files_that_predict_takes(trained: TrainedRun, tmp_path: Path):
    fates = {name: fate for name, fate in fill(tmp_path / "corpus").items() if fate in (READ, REFUSED)}
    with serve(trained, Limits(body=2**25, pixels=2**26, requests=4)) as client:
        for name, fate in fates.items():
            path = tmp_path / "corpus" / name
            if path.is_file():
                reply = client.post(f"/predict?name={quote(os.fsencode(name))}", path.read_bytes())
                assert reply.status == (200 if fate == READ else 422), (name, reply.body)


def test_what_waits_together_is_judged_together_and_an_error_is_the_requests_alone():
    sizes, go = [], threading.Event()

    def judge(pictures: Any) -> list[Any]:
        go.wait(10)
        sizes.append(len(pictures))
        if "bad" in pictures:
            raise ValueError("bad")
        return [picture * 2 for picture in pictures]

    batches = Batches(judge, at_once=4)
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


def test_the_page_shows_the_overlay_and_the_defects(client: Client, browser: Any, small_panels: Path):
    with opened(browser, "about:blank") as page:
        wrong: list[str] = []
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.goto(f"http://127.0.0.1:{client.port}/")
        page.set_input_files("#files", [small_panels / "test/good/000.png", small_panels / "test/stain/000.png"])
        page.locator("#strip button").nth(1).wait_for()
        assert page.inner_text("#verdict b") == "NOK" and page.locator("tbody tr").count() >= 1
        assert page.locator("#boxes rect").count() == page.locator("tbody tr").count()
        assert page.evaluate("document.querySelector('#overlay').complete") and not wrong
        page.set_input_files("#files", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
        page.wait_for_selector("#banner:not([hidden])")
        assert "a.png" in page.inner_text("#banner")
