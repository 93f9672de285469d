"""The local server: one page, the crops by id, and the answers."""

from __future__ import annotations

import html
import logging
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from anomalib_lite.annotate.crops import Crop
from anomalib_lite.annotate.images import browser_image
from anomalib_lite.annotate.labels import UNLABELLED, Answer
from anomalib_lite.annotate.scores import Score
from anomalib_lite.annotate.security import Guard, allowed_hosts
from anomalib_lite.annotate.store import Store
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

_STATIC_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Labelling:
    """What the page works on."""

    store: Store
    defects: Sequence[str]
    template: Path | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)


class AnswerRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str
    label: str | None
    defect: str | None = None


def build_app(labelling: Labelling, token: str) -> FastAPI:
    """Routes without their guard. All but the POSTs only read."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_page(app, token)
    _add_images(app, labelling)
    _add_answers(app, labelling)
    return app


def _add_page(app: FastAPI, token: str) -> None:
    files = {file.name: file.read_bytes() for file in (resources.files(__package__) / "static").iterdir()}
    page = files.pop("index.html").decode().replace("{{token}}", html.escape(token))

    @app.get("/")
    def index() -> Response:
        return Response(page, media_type="text/html", headers={"cache-control": "no-store"})

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        media_type = _STATIC_TYPES.get(Path(name).suffix)
        if name not in files or media_type is None:
            raise HTTPException(404, "there is no such file")
        return Response(files[name], media_type=media_type, headers={"cache-control": "no-cache"})


def _add_images(app: FastAPI, labelling: Labelling) -> None:
    store = labelling.store

    @app.get("/image/{crop_id}")
    def image(crop_id: str) -> Response:
        return _file_response(_find(store, crop_id).path)

    @app.get("/mask/{crop_id}")
    def mask(crop_id: str) -> Response:
        return _file_response(store.mask_path(_find(store, crop_id)))

    @app.get("/template")
    def template() -> Response:
        return _file_response(labelling.template)


def _add_answers(app: FastAPI, labelling: Labelling) -> None:
    store = labelling.store

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        return {
            "folder": store.root.name,
            "defects": list(labelling.defects),
            "template": _version(labelling.template),
            "notes": store.notes,
            "version": store.version,
            "crops": [{**_crop_json(store, crop), **_fixed_json(labelling, crop)} for crop in store.crops.values()],
        }

    @app.post("/api/answer")
    def answer(request: AnswerRequest) -> dict[str, Any]:
        crop = _find(store, request.id)
        try:
            store.answer(crop, Answer(request.label, request.defect))
        except (ValueError, OSError) as error:
            raise _not_saved(error) from error
        return _saved(store, crop)

    @app.post("/api/undo")
    def undo() -> dict[str, Any]:
        try:
            return _saved(store, store.undo())
        except OSError as error:
            raise _not_saved(error) from error

    @app.post("/api/mask/{crop_id}")
    async def save_mask(crop_id: str, request: Request) -> dict[str, Any]:
        crop = _find(store, crop_id)
        try:
            await run_in_threadpool(store.save_mask, crop, await request.body())
        except (ValueError, UserError, OSError) as error:
            raise _not_saved(error) from error
        return _saved(store, crop)


def serve(labelling: Labelling, listening: socket.socket, host: str) -> None:
    """Serves until interrupted; `listening` is bound already, so that the port is known."""
    token = secrets.token_urlsafe(32)
    app = Guard(build_app(labelling, token), allowed_hosts(host, listening.getsockname()[1]), token)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _find(store: Store, crop_id: str) -> Crop:
    crop = store.crops.get(crop_id)
    if crop is None:
        raise HTTPException(404, "there is no such crop here: reload the page")
    return crop


def _file_response(path: Path | None) -> Response:
    """URLs carry the file's version, so that a browser may keep what it has."""
    try:
        if path is None:
            raise FileNotFoundError
        content, media_type = browser_image(path)
    except (OSError, UserError) as error:
        raise HTTPException(404, str(error) or "there is no such image") from error
    return Response(content, media_type=media_type, headers={"cache-control": "private, max-age=3600"})


def _version(path: Path | None) -> str | None:
    try:
        return f"{path.stat().st_mtime_ns:x}" if path else None
    except OSError:
        return None


def _crop_json(store: Store, crop: Crop) -> dict[str, Any]:
    answer = store.answers.get(crop.key, UNLABELLED)
    return {"id": crop.id, "label": answer.label, "defect": answer.defect, "mask": _version(store.mask_path(crop))}


def _fixed_json(labelling: Labelling, crop: Crop) -> dict[str, Any]:
    score = labelling.scores.get(crop.key)
    return {
        "name": crop.key,
        "version": _version(crop.path),
        "score": score.value if score else None,
        "nok": score.nok if score else None,
    }


def _saved(store: Store, crop: Crop | None) -> dict[str, Any]:
    return {"version": store.version, "crop": _crop_json(store, crop) if crop else None, "warning": store.warning}


def _not_saved(error: Exception) -> HTTPException:
    if isinstance(error, OSError):
        log.error("an answer was not saved: %s", error)
        return HTTPException(507, f"not saved: {error}")
    return HTTPException(422, f"not saved: {error}")
