import re
import socket
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.annotate import store as store_module
from anomalib_lite.annotate.crops import Score
from anomalib_lite.annotate.server import Labelling, listen, run_session
from anomalib_lite.annotate.store import Journal, Store
from anomalib_lite.errors import UserError

from .conftest import TOKEN, Client, drawn_mask, token_of

Serve = Callable[[Labelling], Client]
Open = Callable[[], Store]


@pytest.fixture
def client(open_store: Open, serve_app: Serve) -> Client:
    return serve_app(Labelling(open_store(), ("scratch", "stain")))


def test_the_page_holds_the_token_and_nothing_from_outside(client: Client) -> None:
    page = client.get("/").body.decode()
    assert token_of(page) == TOKEN
    for name in ("/", "/static/style.css", "/static/app.js", "/static/render.js", "/static/view.js"):
        text = client.get(name).body.decode()
        assert not re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text)


def test_every_module_the_page_imports_is_served(client: Client) -> None:
    wanted = {"app.js"}
    seen: set[str] = set()
    while wanted - seen:
        name = (wanted - seen).pop()
        reply = client.get(f"/static/{name}")
        assert reply.status == 200 and reply.headers["content-type"].startswith("text/javascript")
        wanted |= set(re.findall(r'from "\./([a-z]+\.js)"', reply.body.decode()))
        seen.add(name)
    assert len(seen) >= 7


def test_the_state_tells_all_that_the_page_needs(open_store: Open, serve_app: Serve, tmp_path: Path) -> None:
    store = open_store()
    template = tmp_path / "template.tif"
    cv2.imwrite(str(template), np.zeros((4, 4, 3), np.uint8))
    client = serve_app(Labelling(store, ("scratch",), template, {"crop_001.png": Score(0.5, True)}))
    state = client.get("/api/state").json
    assert state["folder"] == "crops" and state["defects"] == ["scratch"] and state["template"]
    first, second = state["crops"][:2]
    assert (first["name"], first["label"], first["score"], first["nok"]) == ("crop_000.png", None, None, None)
    assert (second["score"], second["nok"]) == (0.5, True)
    assert client.get("/template").headers["content-type"] == "image/png"


def test_answer_mask_undo_and_what_comes_back(client: Client, crops_folder: Path) -> None:
    crop_id = client.get("/api/state").json["crops"][2]["id"]
    reply = client.post("/api/answer", {"id": crop_id, "label": "NOK", "defect": "stain"}).json
    assert reply == {
        "version": 1,
        "warning": None,
        "crop": {"id": crop_id, "label": "NOK", "defect": "stain", "mask": None},
    }
    reply = client.post(f"/api/mask/{crop_id}", drawn_mask(), **{"content-type": "image/png"}).json
    assert reply["version"] == 2 and reply["crop"]["mask"]
    assert client.get(f"/mask/{crop_id}").body == (crops_folder / "masks/crop_002.png").read_bytes()
    reply = client.post("/api/undo", {}).json
    assert reply["crop"]["label"] is None and reply["crop"]["mask"]
    assert client.post("/api/undo", {}).json["crop"] is None


SENSELESS = [
    *({"id": "unknown", "label": "OK"}, {"id": "ID", "label": "maybe"}, {"id": ["ID"], "label": "OK"}, {"id": "ID"}),
    *({"id": "ID", "label": "OK", "defect": "stain"}, {"id": "ID", "label": "OK", "path": "x"}, [], b"no json"),
]


def test_what_makes_no_sense_is_refused(client: Client) -> None:
    crop_id = client.get("/api/state").json["crops"][0]["id"]
    for body in SENSELESS:
        if isinstance(body, dict) and body["id"] == "ID":
            body = {**body, "id": crop_id}
        assert client.post("/api/answer", body).status in (404, 422), body
    for mask in (b"", b"no png", drawn_mask((5, 5))):
        reply = client.post(f"/api/mask/{crop_id}", mask, **{"content-type": "image/png"})
        assert reply.status == 422 and "not saved" in reply.json["detail"]
    assert client.get("/api/state").json["version"] == 0


def test_an_answer_not_on_the_disk_is_an_error_and_one_in_the_journal_alone_a_warning(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    crop_id = client.get("/api/state").json["crops"][0]["id"]
    monkeypatch.setattr(Journal, "append", full)
    reply = client.post("/api/answer", {"id": crop_id, "label": "OK"})
    assert reply.status == 507 and "No space" in reply.json["detail"]
    monkeypatch.undo()
    assert client.get("/api/state").json["crops"][0]["label"] is None
    monkeypatch.setattr(store_module, "write_text", full)
    reply = client.post("/api/answer", {"id": crop_id, "label": "OK"})
    assert reply.status == 200 and "No space" in reply.json["warning"]


def test_a_crop_that_vanished_is_no_server_error(client: Client, crops_folder: Path) -> None:
    crop_id = client.get("/api/state").json["crops"][0]["id"]
    (crops_folder / "crop_000.png").unlink()
    assert client.get(f"/image/{crop_id}").status == 404
    assert client.get("/api/state").json["crops"][0]["version"] is None
    assert client.post(f"/api/mask/{crop_id}", drawn_mask()).status in (422, 507)


@pytest.mark.parametrize(
    ("host", "remote", "message"),
    [
        *((host, False, "allow_remote") for host in ("0.0.0.0", "192.168.7.7", "example.org", "::", "")),
        *((host, True, "Name the address") for host in ("0.0.0.0", "::", "")),
    ],
)
def test_only_this_machine_is_served_unless_said_otherwise_by_an_address_of_its_own(host, remote, message) -> None:
    with pytest.raises(UserError, match=message):
        listen(host, 0, allow_remote=remote)


def test_the_server_listens_on_the_loopback_address_alone_at_a_port_that_is_free() -> None:
    with listen("127.0.0.1", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert listening.proto == socket.IPPROTO_TCP, "or each answer would wait for Nagle"
        with pytest.raises(UserError, match="port=0"):
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
def test_an_unfit_option_says_what_to_do(crops_folder: Path, options: dict, message: str) -> None:
    given = {"crops": crops_folder, "defects": ["scratch"], "port": 0, "open_browser": False, **options}
    with pytest.raises(UserError, match=message):
        run_session(**given)
    assert not list(crops_folder.glob("labels*"))
