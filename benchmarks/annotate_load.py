"""A folder of many crops, labelled by several clients at once over HTTP: latencies, the server's memory, what is kept.

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
    """One connection, as a browser keeps it; `seconds` of each answer and each image."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.seconds: dict[str, list[float]] = {"image": [], "answer": []}

    def ask(self, method: str, path: str, body: dict | None = None, token: str = "") -> bytes:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self.connection.request(method, path, json.dumps(body) if body else None, headers)
        reply = self.connection.getresponse()
        content = reply.read()
        if reply.status != 200:
            raise SystemExit(f"{method} {path}: {reply.status} {content[:200]!r}")
        return content

    def label(self, crops: list[dict], token: str, end: float) -> dict[str, str]:
        """Looks at each crop and answers, until the time is over; the answers that were confirmed."""
        confirmed = {}
        for number, crop in enumerate(crops):
            if time.monotonic() > end:
                break
            label = "NOK" if number % 7 == 0 else "OK"
            begin = time.perf_counter()
            self.ask("GET", f"/image/{crop['id']}")
            seen = time.perf_counter()
            self.ask("POST", "/api/answer", {"id": crop["id"], "label": label, "defect": None}, token)
            self.seconds["image"].append(seen - begin)
            self.seconds["answer"].append(time.perf_counter() - seen)
            confirmed[crop["name"]] = label
        return confirmed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("crops", 20_000), ("size", 48), ("clients", 8), ("minutes", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        write_crops(Path(place), min(options.crops, 100_000), options.size)
        command = [sys.executable, "-m", "anomalib_lite.cli", "annotate", f"crops={place}/crops", "port=0"]
        with subprocess.Popen([*command, "open_browser=false"], stderr=subprocess.PIPE, text=True) as server:
            try:
                assert server.stderr is not None
                line = next(line for line in server.stderr if "http://" in line)
                work(server.pid, int(re.findall(r"127\.0\.0\.1:(\d+)", line)[0]), options, Path(place) / "crops")
            finally:
                server.terminate()


def work(process: int, port: int, options: argparse.Namespace, folder: Path) -> None:
    first, begin = Client(port), time.perf_counter()
    token = re.findall(r'name="annotate-token" content="([^"]+)"', first.ask("GET", "/").decode())[0]
    crops = json.loads(first.ask("GET", "/api/state"))["crops"]
    print(f"{len(crops)} crops listed in {time.perf_counter() - begin:.2f} s")
    clients = [Client(port) for _ in range(min(options.clients, 64))]
    confirmed, memory, begin = {}, [memory_mb(process)], time.monotonic()
    end = begin + 60 * options.minutes
    with ThreadPoolExecutor(len(clients)) as pool:
        for part in range(10):  # the memory is read in between
            share = crops[part * len(crops) // 10 : (part + 1) * len(crops) // 10]
            tasks = [pool.submit(c.label, share[k :: len(clients)], token, end) for k, c in enumerate(clients)]
            confirmed |= {name: label for task in tasks for name, label in task.result().items()}
            memory.append(memory_mb(process))
    seconds = time.monotonic() - begin
    with (folder / "labels.csv").open(newline="") as stream:
        kept = {row["crop"]: row["label"] for row in csv.DictReader(stream)}
    print(f"{len(confirmed)} answers confirmed in {seconds:.0f} s, {len(confirmed) / seconds:.1f} a second")
    print(f"labels.csv has {len(kept)} lines and says the same: {kept == confirmed}")
    for name in ("image", "answer"):
        times = 1000 * np.concatenate([client.seconds[name] for client in clients])
        p50, p99 = np.percentile(times, [50, 99])
        print(f"{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {times.max():.0f} ms")
    print("memory, MB:", " ".join(f"{value:.0f}" for value in memory))


if __name__ == "__main__":
    main()
