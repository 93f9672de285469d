"""Measures the inspection server's response times on this machine, and its answers to invalid requests.

usage: python benchmarks/serve.py RUN IMAGE... [--requests 500] [--clients 8]
"""

import argparse
import http.client
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np


def post(port: int, body: bytes) -> tuple[int | str, float, str]:
    """Sends an image; returns the status (or the name of an error), the seconds, and the start of the answer."""
    begin = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/predict", body)
        reply = connection.getresponse()
        return reply.status, time.perf_counter() - begin, reply.read()[:90].decode()
    except OSError as error:
        return type(error).__name__, time.perf_counter() - begin, str(error)
    finally:
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    count = min(options.requests, 5000)
    command = [sys.executable, "-m", "anomalib_lite.cli", "serve", f"run={options.run}", "port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            line = next(line for line in server.stderr if "inspecting at" in line)
            port = int(line.split("127.0.0.1:")[1].split()[0])
            bodies = [path.read_bytes() for path in options.images]
            post(port, bodies[0])  # the first request is slower
            with ThreadPoolExecutor(min(options.clients, 64)) as pool:
                begin = time.perf_counter()
                answers = list(pool.map(lambda k: post(port, bodies[k % len(bodies)]), range(count)))
                seconds = time.perf_counter() - begin
            times = 1000 * np.array([duration for _, duration, _ in answers])
            print(f"{count} requests by {options.clients} clients: {dict(Counter(s for s, *_ in answers))}")
            p50, p99 = np.percentile(times, [50, 99])
            print(f"{count / seconds:.1f} per second; p50 {p50:.0f} ms, p99 {p99:.0f} ms")
            print("100 MB:", post(port, bytes(100_000_000)))
            print("no image:", post(port, b"no image"))
            with socket.create_connection(("127.0.0.1", port)) as client:
                head = b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-length: 9999\r\n\r\nhalf"
                client.sendall(head % port)
            print("after a client that disconnected in the middle:", post(port, bodies[0])[0])
            server.terminate()
            print("exit status after SIGTERM:", server.wait(60))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
