"""What `make sync` does with the files of a run that was interrupted: an upload to a server that remembers."""

import gzip
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.commands import REPOSITORY, one_thread
from tests.wandb_files import SCRIPT, offline_runs


class Server(BaseHTTPRequestHandler):
    """As much of W&B's protocol as an upload needs. `histories`: the rows of each run, by its id."""

    protocol_version = "HTTP/1.1"
    histories: dict[str, list[dict[str, Any]]]
    requests: list[str]

    def do_POST(self) -> None:
        self.requests.append(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        body = json.loads(raw) if raw.startswith(b"{") else {}
        if "graphql" in self.path:
            operation = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])
            self.answer({"data": self.resolve(operation[1] if operation else "", body.get("variables") or {})})
            return
        run = re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if run and (rows := body.get("files", {}).get("wandb-history.jsonl")):
            kept = self.histories.setdefault(run[1], [])
            kept[rows["offset"] :] = [json.loads(row) for row in rows["content"]]
        self.answer({})

    def do_PUT(self) -> None:
        self.requests.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer({})

    do_GET = do_PUT

    def resolve(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        name, user = variables.get("name"), {"id": "e", "name": "u"}
        if operation == "RunResumeStatus":
            return {"model": {"id": "m", "name": "p", "entity": user, "bucket": self.stored(name)}}
        if operation == "UpsertBucket":
            self.histories.setdefault(str(name), [])
            bucket = {"id": "r", "name": name, "displayName": "n", "config": "{}", "description": ""}
            bucket["project"] = {"id": "m", "name": "p", "entity": user}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "CreateRunFiles":
            host = f"http://{self.headers['Host']}"
            files = [{"name": file, "uploadUrl": f"{host}/{number}"} for number, file in enumerate(variables["files"])]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {"viewer": {"id": "1", "username": "u", "entity": "u", "flags": "{}", "teams": {"edges": []}}}

    def stored(self, name: str | None) -> dict[str, Any] | None:
        rows = self.histories.get(str(name))
        if not rows:
            return None
        return {
            "id": "r", "name": name, "displayName": "n", "summaryMetrics": "{}", "config": "{}", "tags": [],
            "historyLineCount": len(rows), "historyTail": json.dumps([json.dumps(rows[-1])]),
            "eventsLineCount": 0, "eventsTail": "[]", "logLineCount": 0, "wandbConfig": '{"t": 1}',
        }  # fmt: skip

    def answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Server.histories, Server.requests = {}, []
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


TWICE = """
from pathlib import Path
from anomalib_lite.runs.folder import RunFolder
from anomalib_lite.runs.tracking import Findings, Tracking, tracked
tracking = Tracking("wandb", "p", "g", artifacts=False)
run = RunFolder(Path("runs/default/panels-stfpm-s1-0123456789"))
run.start({"seed": 1}, {})
try:
    with tracked(tracking, run) as tracker:
        tracker.logger.log_metrics({"val_loss": 3.0}, step=5)
        tracker.logger.log_metrics({"val_loss": 2.0}, step=10)
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
with tracked(tracking, run) as tracker:
    tracker.logger.log_metrics({"val_loss": 1.0}, step=15)
    tracker.log_result(Findings({"image_auroc": 0.9}))
"""


def test_without_a_key_nothing_is_sent_and_an_interrupted_run_is_uploaded_as_one(
    server: ThreadingHTTPServer, tmp_path: Path
):
    ours = one_thread(WANDB_BASE_URL=f"http://127.0.0.1:{server.server_address[1]}", HOME=str(tmp_path))
    ours = {k: v for k, v in ours.items() if k not in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_ERROR_REPORTING")}
    done = subprocess.run([sys.executable, "-c", TWICE], cwd=tmp_path, env=ours, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Server.requests == []
    runs = offline_runs(tmp_path / "runs")
    assert [run.id for run in runs] == ["default-0123456789"] * 2 and [run.exit_code for run in runs] == [1, 0]

    recipe = (REPOSITORY / "Makefile").read_text().partition("\nsync:")[2]
    assert "xargs -0 $(BIN)/wandb sync" in recipe, "what is run here"
    command = [sys.executable, "-c", SCRIPT, "sync", *(str(run.file.parent) for run in reversed(runs))]
    keyed = ours | {"WANDB_API_KEY": "a" * 40}
    done = subprocess.run(command, cwd=tmp_path, env=keyed, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (rows,) = Server.histories.values()
    assert [row["val_loss"] for row in rows] == [3.0, 2.0, 1.0] and [row["_step"] for row in rows] == [0, 1, 2]
    assert [row["trainer/global_step"] for row in rows] == [5, 10, 15]
