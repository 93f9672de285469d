"""A server in this process or in one of its own, and a client for it."""

import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from anomalib_lite.web import Guard, bind, serving
from tests.commands import one_thread

TOKEN = "the-token-of-the-tests"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Speaks HTTP as it stands: no path is tidied up. With a token each POST has it."""

    port: int
    token: str = ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """body: bytes, an iterable of them, or what goes as JSON. headers: with _ for -."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token and method == "POST":
            sent.setdefault("authorization", f"Bearer {self.token}")
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, sent)
            reply = connection.getresponse()
            return Reply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.ask("POST", path, body, **headers)


@contextmanager
def started(verb: str, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen, str, str]]:
    """`anomalib-lite VERB` in a process of its own, its address, and what it has said so far."""
    command, said = [sys.executable, "-m", "anomalib_lite.cli", verb, *options], ""
    with subprocess.Popen(command, env=one_thread(**environment), stderr=subprocess.PIPE, text=True) as process:
        try:
            while not (found := re.search(r"http://\S+:\d+", said)):
                line = process.stderr.readline()
                assert line, said
                said += line
            yield process, found[0], said
        finally:
            process.kill()


@contextmanager
def served(guarded: Callable[[int], Guard], token: str = "") -> Iterator[Client]:
    """guarded: from the port to what is served there. token: the client's."""
    with bind("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        server = serving(guarded(port), 30)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Client(port, token)
        finally:
            server.should_exit = True
            thread.join(30)
