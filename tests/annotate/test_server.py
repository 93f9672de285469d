"""What the labelling server answers, and whom it does not answer."""

import re
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anomalib_lite.annotate import store as store_module
from anomalib_lite.annotate.crops import Score
from anomalib_lite.annotate.server import MAX_BODY, listen, run_session
from anomalib_lite.annotate.store import Journal
from anomalib_lite.errors import UserError
from anomalib_lite.web import Guard, allowed_hosts
from tests.made import write_pixels
from tests.servers import TOKEN, Client

from .conftest import drawn_mask


def first_id(client: Client) -> str:
    return client.get("/api/state").json["crops"][0]["id"]


def test_the_page_and_the_modules_it_imports_are_served_with_the_token_and_nothing_from_outside(client: Client):
    assert f'name="annotate-token" content="{TOKEN}"' in client.get("/").body.decode()
    wanted, seen = {"/", "/static/style.css", "/static/app.js"}, set[str]()
    while left := wanted - seen:
        seen.add(name := left.pop())
        reply = client.get(name)
        kind = {"": "text/html", "css": "text/css", "js": "text/javascript"}[name.partition(".")[2]]
        assert reply.status == 200 and reply.headers["content-type"].startswith(kind)
        text = reply.body.decode()
        assert not re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text)
        wanted |= {f"/static/{module}" for module in re.findall(r'from "\./([a-z]+\.js)"', text)}
    assert len(seen) >= 9


def test_the_state_tells_all_that_the_page_needs(serve: Callable[..., Client], tmp_path: Path):
    template = write_pixels(tmp_path / "template.tif", np.zeros((4, 4, 3), np.uint8))
    client = serve(template=template, scores={"crop_001.png": Score(0.5, True)})
    state = client.get("/api/state").json
    assert state["folder"] == "crops" and "scratch" in state["defects"] and state["template"]
    first, second = state["crops"][:2]
    assert (first["name"], first["label"], first["score"], first["nok"]) == ("crop_000.png", None, None, None)
    assert (second["score"], second["nok"]) == (0.5, True)
    assert client.get("/template").headers["content-type"] == "image/png"


def test_answer_mask_undo_and_what_comes_back(client: Client, folder: Path):
    crop = client.get("/api/state").json["crops"][2]
    reply = client.post("/api/answer", {"id": crop["id"], "label": "NOK", "defect": "stain"}).json
    assert reply == {"version": 1, "warning": None, "crop": crop | {"label": "NOK", "defect": "stain"}}
    reply = client.post(f"/api/mask/{crop['id']}", drawn_mask()).json
    assert reply["version"] == 2 and reply["crop"]["mask"]
    assert client.get(f"/mask/{crop['id']}").body == (folder / "masks/crop_002.png").read_bytes()
    for seen in ({}, {"if_match": "1"}):  # drawn on another mask than that on the disk
        refused = client.post(f"/api/mask/{crop['id']}", drawn_mask((1, 2, 3, 4)), **seen)
        assert refused.status == 412 and "reload this page" in refused.json["detail"]
    assert client.post(f"/api/mask/{crop['id']}", drawn_mask()).status == 200, "the same again is no conflict"
    undo = {"id": crop["id"], "label": "NOK", "defect": "stain"}
    other = client.post("/api/undo", undo | {"defect": None}).json
    assert not other["undone"] and other["crop"]["label"] == "NOK"
    reply = client.post("/api/undo", undo).json
    assert reply["undone"] and reply["crop"]["label"] is None and reply["crop"]["mask"]
    assert not client.post("/api/undo", undo).json["undone"]


SENSELESS = [
    *({"id": "unknown", "label": "OK"}, {"id": "ID", "label": "maybe"}, {"id": ["ID"], "label": "OK"}, {"id": "ID"}),
    *({"id": "ID", "label": "OK", "defect": "stain"}, {"id": "ID", "label": "OK", "path": "x"}, [], b"no json"),
    *({"id": "ID", "label": None, "defect": "stain"}, {"id": "ID", "label": "NOK", "defect": " "}),
]


def test_what_makes_no_sense_is_refused(client: Client):
    crop_id = first_id(client)
    for body in SENSELESS:
        if isinstance(body, dict) and body["id"] == "ID":
            body = {**body, "id": crop_id}
        assert client.post("/api/answer", body).status in (404, 422), body
    for mask in (b"", b"no png", drawn_mask(size=(5, 5))):
        reply = client.post(f"/api/mask/{crop_id}", mask)
        assert reply.status == 422 and "not saved" in reply.json["detail"]
    assert client.get("/api/state").json["version"] == 0


def test_an_answer_not_on_the_disk_is_an_error_and_one_in_the_journal_alone_a_warning(
    client: Client, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    answer = {"id": first_id(client), "label": "OK"}
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        reply = client.post("/api/answer", answer)
    assert reply.status == 507 and "No space" in reply.json["detail"]
    assert client.get("/api/state").json["crops"][0]["label"] is None
    monkeypatch.setattr(store_module, "write_text", full)
    reply = client.post("/api/answer", answer)
    assert reply.status == 200 and "No space" in reply.json["warning"]


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_a_crop_that_vanished_or_is_damaged_is_no_server_error(client: Client, folder: Path, content: bytes | None):
    crop_id = first_id(client)
    (folder / "crop_000.png").unlink()
    if content is not None:
        (folder / "crop_000.png").write_bytes(content)
    else:
        assert client.get(f"/image/{crop_id}").status == 404
        assert client.get("/api/state").json["crops"][0]["version"] is None
    reply = client.post(f"/api/mask/{crop_id}", drawn_mask())
    assert reply.status in (422, 507) and "crop_000.png" in reply.json["detail"]


# Who may speak

HERE, PASS = "127.0.0.1:8765", {"authorization": f"Bearer {TOKEN}"}
OTHER_HOSTS = ("evil.example:8765", "127.0.0.1", "127.0.0.1:8766", "127.0.0.1:8765.evil.example", "")
OTHER_ORIGINS = ("http://evil.example", "null", f"https://{HERE}", "http://127.0.0.1:80", f"http://{HERE}.evil.example")
OTHER_TOKENS = ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer ü")


@pytest.mark.parametrize(
    ("status", "method", "headers"),
    [
        (None, "POST", {"host": HERE, "origin": f"http://{HERE}"} | PASS),
        (None, "POST", {"host": "localhost:8765", "origin": "http://localhost:8765"} | PASS),
        (None, "GET", {"host": HERE}),
        *((421, method, {"host": host} | PASS) for host in OTHER_HOSTS for method in ("GET", "POST")),
        (421, "GET", {}),
        *((403, m, {"host": HERE, "origin": o} | PASS) for o in (*OTHER_ORIGINS, "") for m in ("GET", "POST")),
        *((401, "POST", {"host": HERE, "authorization": other}) for other in OTHER_TOKENS),
        (401, "POST", {"host": HERE}),
        *((405, method, {"host": HERE} | PASS) for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")),
    ],
)
def test_only_the_page_itself_may_pass(status: int | None, method: str, headers: dict[str, str]):
    """A host name made to resolve to this server, another origin, and who does not have the token are refused."""
    guard = Guard(None, allowed_hosts("127.0.0.1", 8765), TOKEN, lambda method, path: method == "POST")
    assert (guard.refusal(method, "/", headers) or [None])[0] == status
    assert "[::1]:8765" in allowed_hosts("::1", 8765)


ATTACKS = (
    *({"origin": "http://evil.example"}, {"origin": "null"}, {"authorization": "Bearer guessed"}),
    *({"host": "evil.example"}, {"authorization": "", "content_type": "application/x-www-form-urlencoded"}),
)


def test_every_post_of_the_running_server_is_guarded(client: Client, folder: Path):
    crop_id = first_id(client)
    mask = f"/api/mask/{crop_id}"
    answer = {"id": crop_id, "label": "NOK"}
    posts = [("/api/answer", answer), ("/api/undo", answer), (mask, drawn_mask())]
    for path, body in posts:
        for attack in ATTACKS:
            assert client.post(path, body, **attack).status in (401, 403, 421), (path, attack)
    for body, status in ((bytes(MAX_BODY + 1), 413), (iter([drawn_mask()]), 411)):  # too long, or of no length
        reply = client.post(mask, body)
        assert reply.status == status and reply.json["detail"]
    assert client.get("/api/state").json["version"] == 0
    assert not (folder / "labels.csv").exists() and not (folder / "masks").exists()
    assert [client.post(path, body).status for path, body in posts] == [200] * 3


BY_PATH = """/static/../server.py /static/%2e%2e/server.py /static/..%2f..%2fserver.py /../../etc/passwd /image/..
    /image/../labels.csv /image/%2e%2e%2fcrop_000.png /mask/.. //etc/passwd /static//etc/passwd /image/crop_000.png
    /static/index.html /static/__init__.py /docs /openapi.json"""


def test_nothing_is_served_by_its_path_and_every_answer_carries_the_headers_that_keep_other_sites_out(client: Client):
    served = ["/", "/static/app.js", f"/image/{first_id(client)}", "/api/state"]
    for path in [*served, *BY_PATH.split()]:
        reply = client.get(path)
        policy = reply.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in reply.headers
        assert reply.status == (200 if path in served else 404), path
        assert path in served or (b"root:" not in reply.body and b"import" not in reply.body), path


def test_only_this_machine_is_served_unless_said_otherwise_by_an_address_of_its_own():
    for host in ("0.0.0.0", "192.168.7.7", "example.org", "::", ""):
        with pytest.raises(UserError, match="allow_remote"):
            listen(host, 0)
    for host in ("0.0.0.0", "::", ""):
        with pytest.raises(UserError, match="Name the address"):
            listen(host, 0, allow_remote=True)
    with listen("127.0.0.1", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert listening.proto == socket.IPPROTO_TCP, "or each answer would wait for Nagle"
        with pytest.raises(UserError, match=r"\(Address already in use\): .* port=0"):
            listen("127.0.0.1", listening.getsockname()[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "nowhere.png"}, "no template"),
        ({"scores": "nowhere.csv"}, "scores="),
        ({"defects": ["a", "a"]}, "different names"),
        ({"defects": ["a", " "]}, "different names"),
        ({"crops": "nowhere"}, "crops="),
        ({"host": "0.0.0.0"}, "allow_remote"),
    ],
)
def test_an_unfit_option_says_what_to_do(folder: Path, options: dict, message: str):
    given = {"crops": folder, "defects": ["scratch"], "port": 0, "open_browser": False, **options}
    with pytest.raises(UserError, match=message):
        run_session(**given)
    assert not list(folder.glob("labels*"))
