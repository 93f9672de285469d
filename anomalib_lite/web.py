"""Shared parts of both servers: a bound socket, a page, and a guard that checks requests.

Every web page that the user has open can reach a server on 127.0.0.1. Three checks reject their requests: the Host
header must name this server (which rejects foreign names that resolve to 127.0.0.1), the Origin must be this server,
and requests that need the token must contain it. Other accounts on the same machine are not kept out.
"""

import hmac
import html
import ipaddress
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Response
from starlette.responses import JSONResponse

from anomalib_lite.errors import UserError

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]


def allowed_hosts(host: str, port: int) -> frozenset[str]:
    """Returns the values of the Host header that name this server."""
    names = {host, "127.0.0.1", "localhost"}
    names = {f"[{name}]" if ":" in name else name for name in names}
    return frozenset({f"{name}:{port}" for name in names} | (names if port == 80 else set()))


@dataclass
class Guard:
    """ASGI middleware that rejects requests (see `refusal`) and adds security headers to every response."""

    app: Any
    hosts: Collection[str] | None  # values of the Host header that name this server; None: any
    token: str = field(repr=False)  # required in `Authorization: Bearer TOKEN`
    secret: Callable[[str, str], bool]  # whether a request with this method and path needs the token
    most: int | None = None  # bytes of a request's body, by its Content-Length; None: left to the app

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Returns the status and reason of a rejection, None if the request is accepted; header names in lower case."""
        if method not in ("GET", "HEAD", "POST"):
            return 405, "only GET and POST are supported"
        if self.hosts is not None:
            if headers.get("host", "").lower() not in self.hosts:
                return 421, "this server does not have that host name"
            origin = headers.get("origin")
            if origin is not None and origin.lower() not in {f"http://{host}" for host in self.hosts}:
                return 403, "requests from other sites are refused"
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if self.secret(method, path) and not hmac.compare_digest(given.encode(), self.token.encode()):
            return 401, "a token is required: Authorization: Bearer TOKEN"
        if self.most is not None and method == "POST":
            length = headers.get("content-length", "")
            if not length.isdecimal():
                return 411, "the request must have a Content-Length"
            if int(length) > self.most:
                return 413, f"a request may have at most {self.most / 2**20:.4g} MiB"
        return None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self.refusal(scope["method"], scope["path"], headers)
        if refused is None:
            return await self.app(scope, receive, send_guarded)
        status, reason = refused
        await JSONResponse({"detail": reason}, status)(scope, receive, send_guarded)


def bind(host: str, port: int) -> socket.socket:
    """Returns a bound, listening socket; port 0 uses any free port. Raises UserError if it cannot listen there."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        listening = socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]  # Python's addition only repeats the address
        what = f"The server cannot listen at {host}:{port} ({reason})"
        raise UserError(f"{what}: choose another port, such as port={port + 1}, or port=0 for any free one.") from None
    # With an explicit protocol, asyncio turns off Nagle's algorithm, which would cost 40 ms per response.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listening.detach())


def serving(app: Guard, grace_seconds: int, connections: int | None = None) -> uvicorn.Server:
    """Returns a server that logs only warnings, and that finishes accepted requests within `grace_seconds` on exit."""
    return uvicorn.Server(uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, lifespan="off", ws="none", server_header=False,
        timeout_graceful_shutdown=grace_seconds, limit_concurrency=connections,
    ))  # fmt: skip


def url_of(host: str, listening: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def app_with_page(package: str, token: str = "") -> FastAPI:
    """Returns an app that serves only the page and files in a package's folder `static`, without FastAPI's own pages.

    The token replaces {{token}} in the page.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    files = {file.name: file.read_bytes() for file in (resources.files(package) / "static").iterdir()}
    page = files.pop("index.html").decode().replace("{{token}}", html.escape(token))

    @app.get("/")
    def index() -> Response:
        return Response(page, media_type="text/html", headers={"cache-control": "no-store"})

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in files or Path(name).suffix not in _TYPES:
            raise HTTPException(404, "file not found")
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers={"cache-control": "no-cache"})

    return app


def is_loopback(host: str) -> bool:
    """Whether an address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
