from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_lite.annotate.server import Labelling
from anomalib_lite.annotate.store import Store
from anomalib_lite.web import Guard, allowed_hosts

from .conftest import TOKEN, Client, drawn_mask

HOSTS = allowed_hosts("127.0.0.1", 8765)
GOOD = {"host": "127.0.0.1:8765", "origin": "http://127.0.0.1:8765", "x-annotate-token": TOKEN, "content-length": "2"}


@pytest.fixture
def client(open_store: Callable[[], Store], serve_app: Callable[[Labelling], Client]) -> Client:
    return serve_app(Labelling(open_store(), ("scratch",)))


def status(method: str = "POST", path: str = "/api/undo", **changed: str | None) -> int | None:
    headers = {**GOOD, **{name.replace("_", "-"): value for name, value in changed.items()}}
    sent = {name: value for name, value in headers.items() if value is not None}
    refused = Guard(None, HOSTS, TOKEN).refusal(method, path, sent)
    return refused[0] if refused else None


def test_the_page_itself_may_pass() -> None:
    assert status() is None
    assert status(host="localhost:8765", origin="http://localhost:8765") is None
    assert status("GET", "/", origin=None, x_annotate_token=None, content_length=None) is None
    assert "[::1]:8765" in allowed_hosts("::1", 8765)


@pytest.mark.parametrize(
    "host", ["evil.example:8765", "127.0.0.1", "127.0.0.1:8766", "127.0.0.1:8765.evil.example", "", None]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_host_name_made_to_resolve_to_this_server_is_refused(method: str, host: str | None) -> None:
    assert status(method, "/", host=host) == 421


OTHERS = "http://evil.example null https://127.0.0.1:8765 http://127.0.0.1:80 http://127.0.0.1:8765.evil.example"


@pytest.mark.parametrize("origin", [*OTHERS.split(), ""])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_origin_is_refused(method: str, origin: str) -> None:
    assert status(method, origin=origin) == 403


@pytest.mark.parametrize("token", [None, "", TOKEN[:-1], TOKEN + "x", "ü"])
def test_a_post_needs_the_token(token: str | None) -> None:
    assert status(x_annotate_token=token) == 403
    assert status("GET", x_annotate_token=token) is None


@pytest.mark.parametrize("path", ["/static/../server.py", "/../etc/passwd", "/image/..", "/a\\x", "/a\0b"])
def test_paths_that_climb_are_refused(path: str) -> None:
    assert status("GET", path) == 400


def test_nothing_but_get_and_post_and_no_endless_body() -> None:
    assert {status(method) for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")} == {405}
    assert status(content_length=None) == 411
    assert status(content_length="-1") == 411
    assert status(content_length=str(10**9)) == 413


POSTS = [
    ("/api/answer", b'{"id": "%s", "label": "NOK"}', {"content-type": "application/json"}),
    ("/api/undo", b"{}", {"content-type": "application/json"}),
    ("/api/mask/%s", drawn_mask(), {"content-type": "image/png"}),
]


ATTACKS = [
    *({"origin": origin} for origin in ("http://evil.example", "null")),
    *({"x-annotate-token": "guessed"}, {"host": "evil.example"}),
]


def test_every_post_of_the_running_server_is_guarded(client: Client, crops_folder: Path) -> None:
    crop_id = client.get("/api/state").json["crops"][0]["id"]
    posts = [(path.replace("%s", crop_id), body.replace(b"%s", crop_id.encode()), kind) for path, body, kind in POSTS]
    for path, body, kind in posts:
        for attack in ATTACKS:
            assert client.post(path, body, **kind, **attack).status in (403, 421), (path, attack)
    assert client.get("/api/state").json["version"] == 0
    assert not (crops_folder / "labels.csv").exists() and not (crops_folder / "masks").exists()
    assert [client.post(path, body, **kind).status for path, body, kind in posts] == [200] * 3


def test_a_form_of_another_site_changes_nothing(client: Client) -> None:
    # What a page elsewhere can send without asking first: a form, with its origin and without the token.
    headers = {"content-type": "application/x-www-form-urlencoded", "origin": "http://evil.example"}
    assert client.send("POST", "/api/undo", b"a=b", headers).status == 403
    del headers["origin"]
    assert client.send("POST", "/api/undo", b"a=b", headers).status == 403


BY_PATH = """/static/../server.py /static/%2e%2e/server.py /static/..%2f..%2fsession.py /../../etc/passwd
    /image/../labels.csv /image/%2e%2e%2fcrop_000.png /mask/.. //etc/passwd /static//etc/passwd /image/crop_000.png
    /static/index.html /static/__init__.py /docs /openapi.json"""


def test_nothing_is_served_by_its_path(client: Client) -> None:
    for path in BY_PATH.split():
        reply = client.get(path)
        assert reply.status in (400, 404), path
        assert b"root:" not in reply.body and b"import" not in reply.body


def test_every_answer_carries_the_headers_that_keep_other_sites_out(client: Client) -> None:
    crop_id = client.get("/api/state").json["crops"][0]["id"]
    for path in ("/", "/static/app.js", f"/image/{crop_id}", "/api/state", "/nowhere"):
        headers = client.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
