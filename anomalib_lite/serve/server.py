"""HTTP server that returns score, verdict, defects and overlay of an uploaded image, with a page to try it."""

import asyncio
import base64
import contextlib
import io
import logging
import os
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
from fastapi import FastAPI, HTTPException, Request, Response
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from anomalib_lite.data.decode import UnreadableImage
from anomalib_lite.engine.predict import Judged, Picture, TrainedRun
from anomalib_lite.errors import UserError
from anomalib_lite.web import Guard, allowed_hosts, app_with_page, bind, is_loopback, serving, url_of

log = logging.getLogger(__name__)

TOKEN = "ANOMALIB_LITE_TOKEN"  # noqa: S105 - name of the environment variable
SHORTEST = 16  # smallest number of characters of a token
KEPT = 64  # number of overlays that links can refer to
BODY_SECONDS = 20  # time limit of an upload
STOP_SECONDS = 30  # time limit of accepted requests after SIGTERM
CONNECTIONS = 512
DROPPED = 2**29  # bytes of a too large upload that are read and discarded
OPEN = ("/", "/healthz")  # paths that need no token
Overlay = Literal["none", "link", "base64"]


@dataclass(frozen=True)
class Limits:
    """Largest numbers of bytes of an upload (body), pixels of its picture, and concurrent requests (requests)."""

    body: int
    pixels: int
    requests: int


class Batches:
    """Maps pictures to answers with `judge`, in one thread, up to `at_once` waiting pictures in one batch."""

    def __init__(self, judge: Callable[[Sequence[Any]], Sequence[Any]], at_once: int) -> None:
        self.judge, self.at_once = judge, at_once
        self.seconds = 0.1  # moving average of the time per image
        self._waiting: deque[tuple[Any, Future[Any]]] = deque()
        self._thread = ThreadPoolExecutor(1, "judge")

    def submit(self, picture: Any) -> Future[Any]:
        """Returns a future of the picture's answer, or of the exception that `judge` raises."""
        future: Future[Any] = Future()
        self._waiting.append((picture, future))
        self._thread.submit(self._work)  # does nothing if an earlier batch has included this picture
        return future

    def _work(self) -> None:
        jobs = [self._waiting.popleft() for _ in range(min(self.at_once, len(self._waiting)))]
        jobs = [job for job in jobs if job[1].set_running_or_notify_cancel()]
        if not jobs:
            return
        begin = time.monotonic()
        try:
            answers = self.judge([picture for picture, _ in jobs])
        except Exception as error:
            for _, future in jobs:
                future.set_exception(error)
            return
        for (_, future), answer in zip(jobs, answers, strict=True):
            future.set_result(answer)
        self.seconds = 0.8 * self.seconds + 0.2 * (time.monotonic() - begin) / len(jobs)


class Numbers:
    """The Prometheus metrics of /metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here: dict[str, Any] = {"registry": self.registry}
        self.answers = Counter("anomalib_lite_answers", "Answers to POST /predict by status", ["status"], **here)
        self.images = Counter("anomalib_lite_images", "Judged images by verdict", ["verdict"], **here)
        self.defects = Counter("anomalib_lite_defects", "Defects by type", ["type"], **here)
        self.seconds = Histogram("anomalib_lite_seconds", "Time from an upload's first byte to its answer", **here)
        self.under_way = Gauge("anomalib_lite_under_way", "Requests in progress", **here)


def build_app(trained: TrainedRun, limits: Limits) -> FastAPI:
    """Builds the application with its routes; `guarded` adds access control."""
    app, numbers, overlays = app_with_page(__package__), Numbers(), OrderedDict[str, bytes]()
    batches = Batches(lambda pictures: [trained.inspect(one) for one in trained.answers(pictures)], trained.at_once)
    under_way: set[Request] = set()
    numbers.under_way.set_function(lambda: len(under_way))

    @app.get("/about")
    def about() -> dict[str, Any]:
        return {"run": trained.path.name, "threshold": trained.threshold.image}

    @app.post("/predict")
    async def predict(request: Request, overlay: Overlay = "none", name: str = "image") -> Response:
        begin, status = time.monotonic(), 200
        try:
            if len(under_way) >= limits.requests:
                seconds = max(1, round(len(under_way) * batches.seconds))
                detail = f"too many images are waiting: try again in {seconds} s"
                raise HTTPException(503, detail, {"retry-after": str(seconds)})
            under_way.add(request)
            judged = await _judged(trained, batches, request, Path(name), limits)
            answer = await run_in_threadpool(_answer, trained, judged, overlay, overlays)
        except HTTPException as error:
            status = error.status_code
            raise
        except ClientDisconnect:
            status = 499  # the client is gone
            return Response(status_code=400)
        except Exception:
            status = 500
            log.exception("an image could not be judged")
            raise HTTPException(500, "the image could not be judged: see the server's log") from None
        finally:
            under_way.discard(request)
            numbers.answers.labels(status).inc()
        numbers.images.labels(answer["verdict"]).inc()
        for defect in answer["defects"]:
            numbers.defects.labels(defect["type"]).inc()
        numbers.seconds.observe(time.monotonic() - begin)
        return JSONResponse(answer)

    @app.get("/overlay/{key}")
    def shown(key: str) -> Response:
        if key not in overlays:
            raise HTTPException(404, f"there is no such overlay: only the last {KEPT} are kept")
        return Response(overlays[key], media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})

    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {"state": "ready", "under_way": len(under_way)}

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(numbers.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def guarded(app: FastAPI, host: str, port: int, token: str = "") -> Guard:
    """Adds access control: without a token (on the loopback address) for pages of this server and programs of this
    machine, with one for every request that carries it, under any host name.
    """
    if not token:
        return Guard(app, allowed_hosts(host, port), "", lambda method, path: False)
    return Guard(app, None, token, lambda method, path: not (path in OPEN or path.startswith("/static/")))


def run_server(trained: TrainedRun, host: str, port: int, limits: Limits) -> None:
    """Serves until SIGTERM or Ctrl-C, then answers accepted requests. Raises UserError for invalid options."""
    token = "" if is_loopback(host) else _token()
    with bind(host, port) as listening:
        app = guarded(build_app(trained, limits), host, listening.getsockname()[1], token)
        log.info("inspecting at %s (Ctrl-C or SIGTERM stops the server)", url_of(host, listening))
        with contextlib.suppress(KeyboardInterrupt, SystemExit):  # uvicorn raises the signal again after shutdown
            serving(app, STOP_SECONDS, CONNECTIONS).run(sockets=[listening])
        log.info("stopped")


def _token() -> str:
    given = os.environ.get(TOKEN)
    token = given or secrets.token_urlsafe(24)
    if len(token) < SHORTEST:
        raise UserError(f"{TOKEN} must have at least {SHORTEST} characters.")
    if not given:
        log.info("%s is not set; the token for this start is %s", TOKEN, token)
    return token


async def _judged(trained: TrainedRun, batches: Batches, request: Request, name: Path, limits: Limits) -> Judged:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = await _body(request, limits.body)
    except TimeoutError:
        raise HTTPException(408, f"the upload took more than {BODY_SECONDS} s") from None
    try:
        picture = await run_in_threadpool(_open, trained, name, data, limits.pixels)
    except UnreadableImage as error:
        raise HTTPException(422, str(error)) from error
    return await asyncio.wrap_future(batches.submit(picture))


async def _body(request: Request, limit: int) -> bytes:
    """Reads the body; raises HTTPException 413 if it is longer than `limit` bytes, 422 if it is empty.

    Reads and discards the rest of a longer body, up to DROPPED bytes: a client that is still sending when the
    connection closes never sees the answer.
    """
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        if total <= limit:
            parts.append(part)
        else:
            parts.clear()
            if total > limit + DROPPED:
                break
    if total > limit:
        raise HTTPException(413, f"an image may have at most {limit / 2**20:.4g} MiB", {"connection": "close"})
    if not total:
        raise HTTPException(422, "send the image's file as the request's body")
    return b"".join(parts)


def _open(trained: TrainedRun, name: Path, data: bytes, limit: int) -> Picture:
    """Decodes an upload; raises UnreadableImage, also for pictures of more than `limit` pixels in a small file."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            width, height = header.size
    except Exception as error:  # Pillow's errors have no common base class
        reason = f"{name} is not an image that can be decoded (damaged, empty or of another format)."
        raise UnreadableImage(reason) from error
    if width * height > limit:
        raise UnreadableImage(f"{name} has {width} x {height} px, more than the limit of {limit / 1e6:g} million.")
    return trained.open(name, data)


def _answer(trained: TrainedRun, judged: Judged, overlay: str, overlays: OrderedDict[str, bytes]) -> dict[str, Any]:
    outcome, threshold = judged.outcome, trained.threshold
    assert outcome.image is not None
    answer = trained.record(judged)
    types = trained.inspector.settings.types if trained.inspector else {}
    for defect in answer["defects"]:
        defect |= {"title": types[defect["type"]].title, "colour": types[defect["type"]].colour}
    height, width = outcome.image.shape[:2]
    verdict = "NOK" if outcome.nok else "OK"
    answer |= {"threshold": threshold.image, "verdict": verdict, "width": width, "height": height}
    if overlay != "none":
        picture = cv2.imencode(".jpg", trained.overlay(judged)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
        if overlay == "base64":
            answer["overlay"] = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
        else:
            key = secrets.token_urlsafe(12)
            overlays[key] = picture
            answer["overlay"] = f"/overlay/{key}"
            while len(overlays) > KEPT:
                overlays.popitem(last=False)
    return answer
