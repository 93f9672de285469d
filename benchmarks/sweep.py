"""Measures the overhead of a job in a multirun, and of starting a command.

    python benchmarks/sweep.py [--jobs 5] [--launcher basic]

Runs a multirun of one job and one of several, each in an empty folder, on tiny images. The difference is the cost of a
further job; without the job's stages (`timings` in status.json), it is the overhead. Then repeats the multirun, which
has nothing left to do. Reports wall seconds, and CPU seconds, which other programs do not affect.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.commands import REPOSITORY
from tests.made import write_category

TARGET = 4.0  # seconds of overhead


class Cost(NamedTuple):
    wall: float
    cpu: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.wall - other.wall, self.cpu - other.cpu)

    def per_job(self, jobs: int) -> Cost:
        return Cost(self.wall / jobs, self.cpu / jobs)


def multirun(folder: Path, data: Path, jobs: int, launcher: str) -> Cost:
    folder.mkdir(exist_ok=True)
    seeds = ",".join(str(seed) for seed in range(jobs))
    arguments = [
        "train", "-m", "preset=smoke", "tracking=none", "defects=none", "threads=1", "data=mvtec_ad",
        f"data.root={data.parent}", f"data.category={data.name}", "image_size=48", "batch_size=4", f"seed={seeds}",
        f"hydra/launcher={launcher}",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    before, begin = _cpu_seconds(), time.perf_counter()
    command = [sys.executable, "-m", "anomalib_lite.cli", *arguments]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return Cost(time.perf_counter() - begin, _cpu_seconds() - before)


def stages(folder: Path) -> float:
    """Returns the total wall seconds of the jobs' stages."""
    files = (folder / "runs/default").glob("*/status.json")
    return sum(sum(json.loads(path.read_text())["timings"].values()) for path in files)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5)
    parser.add_argument("--launcher", default="basic")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        data = write_category(home / "sets/stripes", train=10, good=3, defects={"dot": 2})
        one = multirun(home / "one", data, 1, args.launcher)
        many = multirun(home / "many", data, args.jobs, args.launcher)
        repeated = multirun(home / "many", data, args.jobs, args.launcher)
        stage_seconds = {folder: stages(home / folder) for folder in ("one", "many")}
    further = (many - one).per_job(args.jobs - 1)
    overhead = further.wall - (stage_seconds["many"] - stage_seconds["one"]) / (args.jobs - 1)
    print(f"{args.jobs} jobs, launcher {args.launcher}: wall seconds (CPU seconds)")
    print(f"command with one job, without the job's stages  {one.wall - stage_seconds['one']:6.2f}")
    print(f"a further job                                   {further.wall:6.2f} ({further.cpu:.2f})")
    print(f"  overhead: without the job's stages            {overhead:6.2f}   target < {TARGET:.0f}")
    print(f"the same multirun again, nothing to do          {repeated.wall:6.2f} ({repeated.cpu:.2f})")


if __name__ == "__main__":
    main()
