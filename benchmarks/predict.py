"""Stress test of `predict` on many images: images per second, memory over time, and a kill in the middle.

Uses copies of the given images with a little noise, so that all differ.

usage: python benchmarks/predict.py RUN IMAGE... [--count 10000] [--size 256] [--pictures]
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np


def write_images(sources: list[Path], folder: Path, count: int, size: int) -> None:
    pictures = [cv2.resize(cv2.imread(str(path)), (size, size), interpolation=cv2.INTER_AREA) for path in sources]
    rng = np.random.default_rng(0)
    for k in range(count):
        noise = rng.integers(-2, 3, (size, size, 1), np.int8)
        noisy = np.clip(pictures[k % len(pictures)].astype(np.int16) + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{k:05d}.jpg"), noisy, [cv2.IMWRITE_JPEG_QUALITY, 92])


def memory_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def follow(command: list[str], kill_after: int | None = None) -> dict:
    """Reads a command's answers, and its memory after every 50; kills it after `kill_after` answers."""
    answers, memory, times = 0, [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        for line in running.stdout:
            json.loads(line)
            answers += 1
            times.append(time.perf_counter())
            if answers % 50 == 0:
                memory.append(memory_mb(running.pid))
            if answers == kill_after:
                os.kill(running.pid, signal.SIGKILL)
                break
    return {"answers": answers, "memory": memory, "rate": (answers - 1) / (times[-1] - times[0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pictures", action="store_true", help="write overlays and maps, too")
    options = parser.parse_args()
    count = min(options.count, 100_000)
    with tempfile.TemporaryDirectory() as temporary:
        folder, output = Path(temporary) / "in", Path(temporary) / "out"
        folder.mkdir()
        write_images(options.images, folder, count, options.size)
        outputs = [] if options.pictures else ["overlays=false", "maps=false"]
        command = [sys.executable, "-m", "anomalib_lite.cli", "predict", f"run={options.run.absolute()}", "--json"]
        command += [f"images={folder}", f"output={output}", *outputs]
        killed, resumed = follow(command, count // 2), follow(command)
        with (output / "predictions.csv").open(newline="") as stream:
            images = [row["image"] for row in csv.DictReader(stream)]
        print(f"killed after {killed['answers']} answers; the second run gave {resumed['answers']}")
        print(f"{killed['rate']:.1f} images per second before the kill")
        print(f"{count} images, {len(images)} lines, each image once: {len(images) == len(set(images)) == count}")
        for name, values in (("before the kill", killed["memory"]), ("after", resumed["memory"])):
            steady = values[len(values) // 5 :]  # the first fifth fills caches
            if steady:
                print(f"memory {name}, MB: {min(steady):.0f} to {max(steady):.0f}, {max(steady) / min(steady) - 1:.1%}")


if __name__ == "__main__":
    main()
