"""Load test of the labelling server: several clients label many crops over HTTP.

Reports latencies and the server's memory, and checks that labels.csv holds every confirmed answer.

usage: python benchmarks/annotate_load.py [--crops 20000] [--size 48] [--clients 8] [--minutes 20]
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from annotate import write_crops
from predict import memory_mb


class Client:
    """A client with one connection, like a browser; `seconds` holds the time of each image and each answer."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.seconds: dict[str, list[float]] = {"image": [], "answer": []}

    def request(self, method: str, path: str, body: dict | None = None, token: str = "") -> bytes:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self.connection.request(method, path, json.dumps(body) if body else None, headers)
        reply = self.connection.getresponse()
        content = reply.read()
        if reply.status != 200:
            raise SystemExit(f"{method} {path}: {reply.status} {content[:200]!r}")
        return content

    def label(self, crops: list[dict], token: str, end: float) -> dict[str, str]:
        """Fetches and answers crops until the time `end`; returns the confirmed answers."""
        confirmed = {}
        for number, crop in enumerate(crops):
            if time.monotonic() > end:
                break
            label = "NOK" if number % 7 == 0 else "OK"
            begin = time.perf_counter()
            self.request("GET", f"/image/{crop['id']}")
            fetched = time.perf_counter()
            self.request("POST", "/api/answer", {"id": crop["id"], "label": label, "defect": None}, token)
            self.seconds["image"].append(fetched - begin)
            self.seconds["answer"].append(time.perf_counter() - fetched)
            confirmed[crop["name"]] = label
        return confirmed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("crops", 20_000), ("size", 48), ("clients", 8), ("minutes", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_crops(Path(folder), min(options.crops, 100_000), options.size)
        command = [sys.executable, "-m", "anomalib_lite.cli", "annotate", f"crops={folder}/crops", "port=0"]
        with subprocess.Popen([*command, "open_browser=false"], stderr=subprocess.PIPE, text=True) as server:
            try:
                assert server.stderr is not None
                line = next(line for line in server.stderr if "http://" in line)
                port = int(re.findall(r"127\.0\.0\.1:(\d+)", line)[0])
                label_all(server.pid, port, options, Path(folder) / "crops")
            finally:
                server.terminate()


def label_all(process: int, port: int, options: argparse.Namespace, folder: Path) -> None:
    first, begin = Client(port), time.perf_counter()
    token = re.findall(r'name="annotate-token" content="([^"]+)"', first.request("GET", "/").decode())[0]
    crops = json.loads(first.request("GET", "/api/state"))["crops"]
    print(f"{len(crops)} crops listed in {time.perf_counter() - begin:.2f} s")
    clients = [Client(port) for _ in range(min(options.clients, 64))]
    confirmed, memory, begin = {}, [memory_mb(process)], time.monotonic()
    end = begin + 60 * options.minutes
    with ThreadPoolExecutor(len(clients)) as pool:
        for part in range(10):  # memory is read between the parts
            share = crops[part * len(crops) // 10 : (part + 1) * len(crops) // 10]
            tasks = [pool.submit(c.label, share[k :: len(clients)], token, end) for k, c in enumerate(clients)]
            confirmed |= {name: label for task in tasks for name, label in task.result().items()}
            memory.append(memory_mb(process))
    seconds = time.monotonic() - begin
    with (folder / "labels.csv").open(newline="") as stream:
        kept = {row["crop"]: row["label"] for row in csv.DictReader(stream)}
    print(f"{len(confirmed)} answers confirmed in {seconds:.0f} s, {len(confirmed) / seconds:.1f} per second")
    print(f"labels.csv has {len(kept)} lines and holds the same answers: {kept == confirmed}")
    for name in ("image", "answer"):
        times = 1000 * np.concatenate([client.seconds[name] for client in clients])
        p50, p99 = np.percentile(times, [50, 99])
        print(f"{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {times.max():.0f} ms")
    print("memory, MB:", " ".join(f"{value:.0f}" for value in memory))


if __name__ == "__main__":
    main()
