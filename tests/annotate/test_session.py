from __future__ import annotations

import socket
from pathlib import Path

import pytest

from anomalib_lite.annotate.session import listen, run_session
from anomalib_lite.errors import UserError


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.7.7", "example.org", "::", ""])
def test_only_this_machine_is_served_unless_said_otherwise(host: str) -> None:
    with pytest.raises(UserError, match="allow_remote"):
        listen(host, 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_even_then_the_address_has_a_name(host: str) -> None:
    with pytest.raises(UserError, match="Name the address"):
        listen(host, 0, allow_remote=True)


def test_a_port_in_use_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="port=0"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_the_server_listens_on_the_loopback_address_alone() -> None:
    with listen("127.0.0.1", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_the_socket_names_its_protocol_or_each_answer_would_wait_for_nagle() -> None:
    with listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


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
