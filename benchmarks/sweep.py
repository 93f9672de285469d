"""What a job of a multirun costs besides its own work, and what the start of a command costs.

    python benchmarks/sweep.py [--jobs 5] [--launcher basic]

A multirun of one job and one of several, each from an empty folder, on tiny images: the difference is what a further
job costs; less what its own stages took (`timings` in status.json), what it costs besides. Then the same multirun once
more, with nothing to do. Seconds by the clock, and of the processor, which other programs of the machine do not change.
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

TARGET = 4.0  # seconds


class Cost(NamedTuple):
    wall: float
    processor: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.wall - other.wall, self.processor - other.processor)

    def over(self, jobs: int) -> Cost:
        return Cost(self.wall / jobs, self.processor / jobs)


def multirun(folder: Path, data: Path, jobs: int, launcher: str) -> Cost:
    folder.mkdir(exist_ok=True)
    seeds = ",".join(str(seed) for seed in range(jobs))
    words = [
        "train", "-m", "preset=smoke", "tracking=none", "defects=none", "threads=1", "data=mvtec_ad",
        f"data.root={data.parent}", f"data.category={data.name}", "image_size=48", "batch_size=4", f"seed={seeds}",
        f"hydra/launcher={launcher}",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    before, begin = _processor(), time.perf_counter()
    command = [sys.executable, "-m", "anomalib_lite.cli", *words]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return Cost(time.perf_counter() - begin, _processor() - before)


def stages(folder: Path) -> float:
    """Seconds by the clock that the jobs' own stages took, together."""
    files = (folder / "runs/default").glob("*/status.json")
    return sum(sum(json.loads(path.read_text())["timings"].values()) for path in files)


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
        nothing = multirun(home / "many", data, args.jobs, args.launcher)
        own = {folder: stages(home / folder) for folder in ("one", "many")}
    further = (many - one).over(args.jobs - 1)
    besides = further.wall - (own["many"] - own["one"]) / (args.jobs - 1)
    print(f"{args.jobs} jobs, launcher {args.launcher}: seconds by the clock (of the processor)")
    print(f"start of a command, its first job's stages left out  {one.wall - own['one']:6.2f}")
    print(f"a further job                                        {further.wall:6.2f} ({further.processor:.2f})")
    print(f"  of these besides its own stages                    {besides:6.2f}   target < {TARGET:.0f}")
    print(f"the same multirun again, nothing to do               {nothing.wall:6.2f} ({nothing.processor:.2f})")


if __name__ == "__main__":
    main()
