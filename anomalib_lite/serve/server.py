"""The inspection server: an image in, its score, verdict, defects and overlay out; a page to try it on."""

import asyncio
import base64
import contextlib
import hmac
import io
import logging
import os
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from fastapi import FastAPI, HTTPException, Request, Response
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from anomalib_lite.data.decode import UnreadableImage
from anomalib_lite.engine.judging import Judged, Judging, Picture
from anomalib_lite.errors import UserError
from anomalib_lite.serve.batches import Batches, Full
from anomalib_lite.web import Guard, allowed_hosts, app_with_page, bind, is_loopback, serving, url_of

log = logging.getLogger(__name__)

TOKEN = "ANOMALIB_LITE_TOKEN"  # noqa: S105 - the variable that holds it
SHORTEST = 16  # signs of a token
KEPT = 64  # overlays that links lead to
BODY_SECONDS = 20  # that an upload may take
STOP_SECONDS = 30  # that accepted requests may take after SIGTERM
CONNECTIONS = 512
DROPPED = 2**29  # bytes that are read of an upload that is too long


@dataclass(frozen=True)
class Limits:
    """body: bytes of an upload. pixels: of its picture. room: requests under way at once."""

    body: int = 32 * 2**20
    pixels: int = 64 * 10**6
    room: int = 64


class Numbers:
    """What /metrics shows."""

    def __init__(self, batches: Batches) -> None:
        self.registry = CollectorRegistry()
        of_this: dict[str, Any] = {"registry": self.registry}
        self.answers = Counter("anomalib_lite_answers", "Answers to POST /predict by status", ["status"], **of_this)
        self.images = Counter("anomalib_lite_images", "Images judged by verdict", ["verdict"], **of_this)
        self.defects = Counter("anomalib_lite_defects", "Defects found by type", ["type"], **of_this)
        self.seconds = Histogram("anomalib_lite_seconds", "From an upload's first byte to its answer", **of_this)
        under_way = Gauge("anomalib_lite_under_way", "Requests under way", **of_this)
        under_way.set_function(lambda: batches.under_way)


class Gate(Guard):
    """On the loopback address only pages of this server and programs of this machine may speak; elsewhere whoever has
    the token, whatever name the server is called by.
    """

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        if method not in ("GET", "HEAD", "POST"):
            return 405, "only GET and POST are known here"
        if not self.token:
            if headers.get("host", "").lower() not in self.hosts:
                return 421, "this server does not answer to that host name"
            origin = headers.get("origin")
            if origin is not None and origin.lower() not in {f"http://{host}" for host in self.hosts}:
                return 403, "requests from another site are refused"
            return None
        if path in ("/", "/healthz") or path.startswith("/static/"):
            return None
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return 401, "a token is needed: Authorization: Bearer TOKEN"
        return None


def build_app(judging: Judging, limits: Limits) -> FastAPI:
    """Routes without their gate."""
    app = app_with_page(__package__)
    batches = Batches(lambda pictures: _judge(judging, pictures), judging.at_once, limits.room)
    numbers, overlays = Numbers(batches), OrderedDict[str, bytes]()

    @app.get("/about")
    def about() -> dict[str, Any]:
        return {"run": judging.trained.path.name, "threshold": judging.trained.threshold.image}

    @app.post("/predict")
    async def predict(request: Request, overlay: str = "none", name: str = "image") -> Response:
        begin = time.monotonic()
        try:
            if overlay not in ("none", "link", "base64"):
                raise HTTPException(422, "overlay is none, link or base64")
            with batches.admitted():
                judged = await _judged(judging, batches, request, Path(name), limits)
                answer = await run_in_threadpool(_answer, judging, judged, overlay, overlays)
        except Full as full:
            numbers.answers.labels(503).inc()
            raise HTTPException(503, str(full), {"retry-after": str(full.seconds)}) from full
        except HTTPException as error:
            numbers.answers.labels(error.status_code).inc()
            raise
        except ClientDisconnect:
            numbers.answers.labels(499).inc()  # nobody reads it
            return Response(status_code=400)
        except Exception:
            numbers.answers.labels(500).inc()
            log.exception("an image was not judged")
            raise HTTPException(500, "the image could not be judged: see the server's log") from None
        numbers.answers.labels(200).inc()
        numbers.images.labels(answer["verdict"]).inc()
        for defect in answer["defects"]:
            numbers.defects.labels(defect["type"]).inc()
        numbers.seconds.observe(time.monotonic() - begin)
        return JSONResponse(answer)

    @app.get("/overlay/{key}")
    def shown(key: str) -> Response:
        if key not in overlays:
            raise HTTPException(404, f"there is no such overlay: the last {KEPT} are kept")
        return Response(overlays[key], media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})

    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {"state": "ready", "under_way": batches.under_way}

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(numbers.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def run_server(judging: Judging, host: str, port: int, limits: Limits) -> None:
    """Serves until SIGTERM or Ctrl-C, and answers what it has accepted. Errors: UserError where an option is unfit."""
    token = "" if is_loopback(host) else _token()
    with bind(host, port) as listening:
        app = gated(build_app(judging, limits), listening, host, token)
        log.info("inspecting at %s (Ctrl-C or SIGTERM ends it)", url_of(host, listening))
        with contextlib.suppress(KeyboardInterrupt, SystemExit):  # uvicorn hands the signal on once all is answered
            serving(app, STOP_SECONDS, CONNECTIONS).run(sockets=[listening])
        log.info("stopped")


def gated(app: FastAPI, listening: socket.socket, host: str, token: str = "") -> Gate:
    """token: empty on the loopback address."""
    return Gate(app, allowed_hosts(host, listening.getsockname()[1]), token)


def _token() -> str:
    token = os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    if len(token) < SHORTEST:
        raise UserError(f"{TOKEN} must have {SHORTEST} signs or more.")
    if TOKEN not in os.environ:
        log.info("no %s is set; the token of this start is %s", TOKEN, token)
    return token


async def _judged(judging: Judging, batches: Batches, request: Request, name: Path, limits: Limits) -> Judged:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = await _body(request, limits.body)
    except TimeoutError:
        raise HTTPException(408, f"the upload took more than {BODY_SECONDS} s") from None
    try:
        picture = await run_in_threadpool(_open, judging, name, data, limits.pixels)
    except UnreadableImage as error:
        raise HTTPException(422, str(error)) from error
    return await asyncio.wrap_future(batches.submit(picture))


async def _body(request: Request, most: int) -> bytes:
    """Errors: HTTPException 413 for one that is too long, 422 where there is none.

    What is too long is read to its end and dropped, up to a bound: a client that is still sending when the connection
    closes never sees the answer.
    """
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        if total <= most:
            parts.append(part)
        else:
            parts.clear()
            if total > most + DROPPED:
                break
    if total > most:
        raise HTTPException(413, f"an image may have {most / 2**20:.4g} MiB", {"connection": "close"})
    if not total:
        raise HTTPException(422, "send the image's file as the request's body")
    return b"".join(parts)


def _open(judging: Judging, name: Path, data: bytes, most: int) -> Picture:
    """Errors: UnreadableImage, also for a small file that holds a huge picture."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            width, height = header.size
    except Exception as error:  # Pillow's own errors have no common base
        raise UnreadableImage(
            f"{name} is no image that can be decoded (damaged, empty or of another format)."
        ) from error
    if width * height > most:
        raise UnreadableImage(f"{name} has {width} x {height} px, more than {most / 1e6:g} million.")
    return judging.open(name, data)


def _judge(judging: Judging, pictures: Any) -> list[Judged]:
    return [judging.inspect(judged) for judged in judging.judge(pictures)]


def _answer(judging: Judging, judged: Judged, overlay: str, overlays: OrderedDict[str, bytes]) -> dict[str, Any]:
    outcome, threshold = judged.outcome, judging.trained.threshold
    assert outcome.image is not None
    answer = judging.record(judged)
    types = judging.inspector.settings.types if judging.inspector else {}
    for defect in answer["defects"]:
        defect |= {"title": types[defect["type"]].title, "colour": types[defect["type"]].colour}
    height, width = outcome.image.shape[:2]
    answer |= {"threshold": threshold.image, "verdict": "NOK" if outcome.nok else "OK", "width": width}
    answer["height"] = height
    if overlay != "none":
        picture = cv2.imencode(".jpg", judging.overlay(judged)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
        if overlay == "base64":
            answer["overlay"] = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
        else:
            key = secrets.token_urlsafe(12)
            overlays[key] = picture
            answer["overlay"] = f"/overlay/{key}"
            while len(overlays) > KEPT:
                overlays.popitem(last=False)
    return answer
