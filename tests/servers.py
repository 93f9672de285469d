"""A server in this process, and a client for it."""

import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from anomalib_lite.web import Guard, bind, serving

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


def token_of(page: bytes) -> str:
    """What the labelling page holds."""
    return re.search(r'name="annotate-token" content="([^"]+)"', page.decode())[1]


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
