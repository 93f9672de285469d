"""One labelling session, from the crops' folder to the stopped server."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from anomalib_lite.annotate.crops import LABELS_NAME, find_crops
from anomalib_lite.annotate.labels import NOK, OK
from anomalib_lite.annotate.scores import read_scores
from anomalib_lite.annotate.server import Labelling, serve
from anomalib_lite.annotate.store import Store
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)


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
    """Serves the page until it is interrupted. Raises UserError where an option does not fit."""
    _check_defects(defects)
    crop_set = find_crops(crops)
    template = Path(template).expanduser() if template else None
    if template is not None and not template.is_file():
        raise UserError(f"There is no template {template}: set template=IMAGE, or template=null for none.")
    found_scores = read_scores(scores, crop_set.crops) if scores else {}
    with listen(host, port, allow_remote) as listening:
        store = Store(crop_set)
        url = f"http://{_in_url(host)}:{listening.getsockname()[1]}"
        log.info("%d crops to label at %s (stop with ctrl+c)", len(crop_set.crops), url)
        if open_browser and _has_screen():
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        try:
            serve(Labelling(store, tuple(defects), template, found_scores), listening, host)
        except KeyboardInterrupt:
            pass
        finally:
            store.close()
        log.info("%s", _summary(store))


def listen(host: str, port: int, allow_remote: bool = False) -> socket.socket:
    """A bound, listening socket; port 0 takes any free one. Raises UserError for a host others can reach."""
    if not _is_loopback(host):
        if not allow_remote:
            raise UserError(
                f"host={host} lets other machines read the crops and change the labels: use "
                "host=127.0.0.1, or say allow_remote=true where that is what you want."
            )
        if host in ("", "0.0.0.0", "::"):
            raise UserError(
                "Name the address that the page is opened with, for example host=192.168.0.5; "
                "the server answers to no other name."
            )
    listening = None
    try:
        # With the protocol named, asyncio turns Nagle's algorithm off, which costs 40 ms an answer otherwise.
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
        listening = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere the option would let two servers share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
        return listening
    except OSError as error:
        if listening is not None:
            listening.close()
        raise UserError(
            f"The server cannot listen at {host}:{port} ({error.strerror or error}): choose "
            "another port, for example port=8766, or port=0 for any free one."
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_defects(defects: Sequence[str]) -> None:
    are_names = all(isinstance(name, str) and name.strip() for name in defects)
    if not are_names or len(set(defects)) < len(defects):
        raise UserError(f"defects is a list of different names, not {list(defects)}.")


def _has_screen() -> bool:
    """Without one, a browser for the terminal would open over the log."""
    return not sys.platform.startswith("linux") or bool(os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"})


def _summary(store: Store) -> str:
    if not store.answers:
        return "Nothing was labelled."
    labels = [store.answers[crop.key].label for crop in store.crops.values() if crop.key in store.answers]
    numbers = {label: labels.count(label) for label in (OK, NOK)}
    left = len(store.crops) - sum(numbers.values())
    return f"{numbers[OK]} OK, {numbers[NOK]} NOK, {left} left; the answers are in {store.root / LABELS_NAME}"
