"""The local web server of a labelling session: serves the page and the crops, and saves the answers."""

import logging
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from anomalib_lite.annotate.crops import LABELS_NAME, Crop, Score, find_crops, read_scores
from anomalib_lite.annotate.store import NOK, OK, UNLABELLED, Answer, StaleMask, Store, browser_image, file_version
from anomalib_lite.errors import UserError
from anomalib_lite.web import Guard, allowed_hosts, app_with_page, bind, is_loopback, serving, url_of

log = logging.getLogger(__name__)

MAX_BODY = 64 * 2**20  # bytes of a request, far above any mask's PNG


class AnswerRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str
    label: str | None
    defect: str | None = None


def run_session(
    crops: str | Path,
    defects: Sequence[str],
    template: str | Path | None = None,
    scores: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    allow_remote: bool = False,
    open_browser: bool = True,
) -> None:
    """Serves the page until it is interrupted. Raises UserError if an option is invalid."""
    names = [str(name).strip() for name in defects]
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"defects must be a list of different names, not {list(defects)}.")
    crop_set = find_crops(crops)
    template = Path(template).expanduser() if template else None
    if template is not None and not template.is_file():
        raise UserError(f"There is no template {template}: set template=IMAGE, or template=null for none.")
    crop_scores = read_scores(scores, crop_set.crops) if scores else {}
    with listen(host, port, allow_remote) as listening, closing(Store(crop_set)) as store:
        url = url_of(host, listening)
        log.info("%d crops to label at %s (stop with ctrl+c)", len(crop_set.crops), url)
        # without a display, webbrowser would start a text browser in the terminal
        has_display = not sys.platform.startswith("linux") or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}
        if open_browser and has_display:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        app = build_app(store, names, template, crop_scores, host, listening.getsockname()[1])
        with suppress(KeyboardInterrupt):
            serving(app, grace_seconds=2).run(sockets=[listening])
    log.info("%s", _summary(store))


def listen(host: str, port: int, allow_remote: bool = False) -> socket.socket:
    """Binds a socket; refuses a host that other machines can reach, unless `allow_remote`, and a wildcard address."""
    if not is_loopback(host) and not allow_remote:
        what = f"host={host} lets other machines read the crops and change the labels"
        raise UserError(f"{what}: set host=127.0.0.1, or allow_remote=true to permit that.")
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - refused here
        what = "Name the address at which the page is to be opened, for example host=192.168.0.5"
        raise UserError(f"{what}: the server refuses requests to any other address.")
    return bind(host, port)


def build_app(
    store: Store, defects: Sequence[str], template: Path | None, scores: Mapping[str, Score], host: str, port: int
) -> Guard:
    """Builds the guarded app of a session; only POST requests change anything, and they need the page's token."""
    token = secrets.token_urlsafe(32)
    app, crop_state = app_with_page(__package__, token), partial(_crop_state, store, scores)

    @app.get("/image/{crop_id}")
    def image(crop_id: str) -> Response:
        return _file_response(_find(store, crop_id).path)

    @app.get("/mask/{crop_id}")
    def mask(crop_id: str) -> Response:
        return _file_response(store.mask_path(_find(store, crop_id)))

    @app.get("/template")
    def template_image() -> Response:
        return _file_response(template)

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        return {
            "folder": store.root.name,
            "defects": list(defects),
            "template": file_version(template),
            "notes": store.notes,
            "version": store.version,
            "crops": [crop_state(crop) for crop in store.crops.values()],
        }

    def saved(crop: Crop) -> dict[str, Any]:
        return {"version": store.version, "crop": crop_state(crop), "warning": store.warning}

    @app.post("/api/answer")
    def answer(request: AnswerRequest) -> dict[str, Any]:
        crop = _find(store, request.id)
        with _saving():
            store.answer(crop, Answer(request.label, request.defect))
        return saved(crop)

    @app.post("/api/undo")
    def undo(request: AnswerRequest) -> dict[str, Any]:
        crop = _find(store, request.id)
        with _saving():
            undone = store.undo(crop, Answer(request.label, request.defect))
        return saved(crop) | {"undone": undone}

    @app.post("/api/mask/{crop_id}")
    async def save_mask(crop_id: str, request: Request) -> dict[str, Any]:
        crop, seen = _find(store, crop_id), request.headers.get("if-match") or None
        with _saving():
            await run_in_threadpool(store.save_mask, crop, await request.body(), seen)
        return saved(crop)

    return Guard(app, allowed_hosts(host, port), token, lambda method, path: method == "POST", MAX_BODY)


def _find(store: Store, crop_id: str) -> Crop:
    crop = store.crops.get(crop_id)
    if crop is None:
        raise HTTPException(404, "there is no such crop here: reload the page")
    return crop


def _file_response(path: Path | None) -> Response:
    """Sends an image; the browser may cache it, because its URL contains the file's version."""
    if path is None:
        raise HTTPException(404, "there is no such image: reload the page")
    try:
        content, media_type = browser_image(path)
    except (OSError, UserError) as error:
        raise HTTPException(404, str(error)) from error
    return Response(content, media_type=media_type, headers={"cache-control": "private, max-age=3600"})


def _crop_state(store: Store, scores: Mapping[str, Score], crop: Crop) -> dict[str, Any]:
    answer, score = store.answers.get(crop.key, UNLABELLED), scores.get(crop.key, Score(None, None))
    return {
        "id": crop.id,
        "name": crop.key,
        "version": file_version(crop.path),
        "label": answer.label,
        "defect": answer.defect,
        "mask": file_version(store.mask_path(crop)),
        "score": score.value,
        "nok": score.nok,
    }


@contextmanager
def _saving() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.error("an answer was not saved: %s", error)
        raise HTTPException(507, f"not saved: {error}") from error
    except (ValueError, UserError) as error:
        raise HTTPException(412 if isinstance(error, StaleMask) else 422, f"not saved: {error}") from error


def _summary(store: Store) -> str:
    if not store.answers:
        return "No crops were labelled."
    labels = [store.answers.get(crop.key, UNLABELLED).label for crop in store.crops.values()]
    ok, nok = labels.count(OK), labels.count(NOK)
    return f"{ok} OK, {nok} NOK, {len(labels) - ok - nok} left; the answers are in {store.root / LABELS_NAME}"
