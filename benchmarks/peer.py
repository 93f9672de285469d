"""This project against anomalib 2.7: same weights, same images, one core each, in turn.

    python benchmarks/peer.py --data MVTEC_AD [--category bottle] [--repeats 5] [--only TASK ...] [--sides SIDE ...]
                              [--shots N] [--work build/peer] [--peer-python PYTHON | --share-torch] [--report]

Without --peer-python the peer gets a virtual environment of its own below ~/.cache/anomalib_lite, made with pip on the
first run (about 5 GB; --share-torch lets it see this Python's packages instead, which leaves 0.5 GB). Every measurement
is a process of its own, held to one core (taskset) and one thread. The sides take turns: ours, the peer as it is
installed, and the peer with the malloc settings that our command line sets for itself; all three on the same core.
Results are appended to WORK/results.jsonl, so that an interrupted run goes on; --report prints the tables alone.
Processor seconds (user and system) are what to compare on a machine that is shared; wall seconds stand beside them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anomalib_lite.cli import MALLOC

ROOT = Path(__file__).resolve().parents[1]
VERSION = "2.7.0"
SIDES = ("ours", "peer", "peer, our malloc")
# task: how ours is called there, the peer's task, and how often at most, where once takes minutes
TASKS = {
    "evaluate": ("evaluate", "evaluate", 1),  # repeats inside
    "infer-stfpm": ("infer-stfpm_plain", "infer-stfpm", 1),
    "infer-padim": ("infer-padim", "infer-padim", 1),
    "infer-patchcore": ("infer-patchcore", "infer-patchcore", 1),
    "fit-padim": ("fit-padim", "fit-padim", 5),
    "epochs-plain": ("epochs-stfpm_plain", "epochs", 2),
    "epochs-default": ("epochs-stfpm", None, 2),
    "fit-patchcore": ("fit-patchcore", "fit-patchcore", 1),
    "limits": ("limits", None, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of MVTec AD, or of data in its layout")
    parser.add_argument("--category", default="bottle")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10, help="of STFPM, at most")
    parser.add_argument("--goal", type=float, default=0.99, help="image AUROC that ends STFPM's training")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peer")
    parser.add_argument("--shots", type=int, help="so few OK images are learned from, by both sides; default: all")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--share-torch", action="store_true")
    parser.add_argument("--report", action="store_true")
    asked = parser.parse_args()
    if asked.data is None and not asked.report:
        print("Left out: it wants --data, the folder of MVTec AD; --help says more.")
        return
    work = asked.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    results = work / "results.jsonl"
    if not asked.report:
        peer = asked.peer_python or peer_python(asked.share_torch)
        measure(asked, peer, work, results)
    for line in told(read(results)):
        print(line)


def measure(asked: argparse.Namespace, peer: Path, work: Path, results: Path) -> None:
    job = {
        "root": str(asked.data.absolute()), "category": asked.category, "work": str(work), "goal": asked.goal,
        "seed": 0, "epochs": asked.epochs, "batch": 32, "batches": [1, 32], "coreset": 0.01, "loops": 32,
        "repeats": asked.repeats, "shots": asked.shots,
    }  # fmt: skip
    for first in ("prepare", "maps"):
        job |= run("ours", first, job, asked, peer)
    job["bank"] = round(job["coreset"] * job["positions"] * job["images"])
    for task in asked.only:
        ours, theirs, most = TASKS[task]
        for number in range(min(most, asked.repeats)):
            for side in asked.sides:
                name = ours if side == "ours" else theirs
                done = [
                    row for row in read(results) if (row["task"], row["side"], row["number"]) == (task, side, number)
                ]
                if name is None or done:
                    continue
                print(f"{task}, {side}, {number + 1}", file=sys.stderr, flush=True)
                row = {
                    "task": task,
                    "side": side,
                    "number": number,
                    **run(side, name, job | {"seed": number}, asked, peer),
                }
                with results.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")


def run(side: str, task: str, job: dict[str, Any], asked: argparse.Namespace, peer: Path) -> dict[str, Any]:
    """One measurement in a process of its own. Errors: SystemExit with what it said, where it failed."""
    file = Path(job["work"]) / "job.json"
    file.write_text(json.dumps(job))
    python, script = (sys.executable, "our_side.py") if side == "ours" else (str(peer), "anomalib_side.py")
    clean = {k: v for k, v in os.environ.items() if k not in MALLOC and k != "PYTHONPATH"}
    clean |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT) if side == "ours" else ""}
    settings = clean if side == "peer" else clean | MALLOC
    command = ["taskset", "-c", str(asked.core), python, str(ROOT / "benchmarks" / "peers" / script), task, str(file)]
    done = subprocess.run(command, env=settings, cwd=job["work"], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"{side}: {task} failed\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def peer_python(share: bool) -> Path:
    """The interpreter of an environment with the peer, made where it is not there."""
    folder = Path.home() / ".cache" / "anomalib_lite" / f"anomalib-{VERSION}{'-shared' if share else ''}"
    python = folder / "bin" / "python"
    if (folder / "installed").is_file():
        return python
    venv.create(folder, with_pip=True, clear=True)
    wanted = [f"anomalib=={VERSION}"]
    if share:
        own = next(path for path in sys.path if path.endswith("site-packages"))
        next(folder.glob("lib/python*/site-packages")).joinpath("zz_shared.pth").write_text(own + "\n")
    else:
        wanted += ["torch", "torchvision"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    (folder / "installed").write_text(VERSION)
    return python


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


def told(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Tables in Markdown: medians, how many they are of, and ratios of processor seconds to ours."""
    for task in TASKS:
        own = [row for row in rows if row["task"] == task]
        if not own:
            continue
        yield f"\n## {task}\n"
        yield "| what | side | processor | wall | of | ratio | figures |\n|---|---|---|---|---|---|---|"
        if task == "limits":
            yield "".join(
                f"| {name} | ours | {value:.4g} | | 1 | | |\n" for name, value in own[0].items() if value != task
            )
            continue
        whats = list(dict.fromkeys(what for row in own for what, *_ in values(row)))
        for what in whats:
            base = None
            for side in SIDES:
                found = [v for row in own if row["side"] == side for v in values(row) if v[0] == what]
                if not found:
                    continue
                cpu, wall = (statistics.median(v[1][clock] for v in found) for clock in ("cpu", "wall"))
                base = base or cpu
                yield f"| {what} | {side} | {cpu:.4g} | {wall:.4g} | {len(found)} | {cpu / base:.2f} | {found[-1][2]} |"
        for side in SIDES:
            if peaks := [row["peak_mb"] for row in own if row["side"] == side]:
                yield f"| peak memory, MB | {side} | {statistics.median(peaks):.0f} | | {len(peaks)} | | |"


def values(row: dict[str, Any]) -> Iterator[tuple[str, dict[str, float], str]]:
    """What a measurement tells: name, seconds (or milliseconds an image) by clock, and figures."""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in row.get("figures", {}).items())
    for part in ("fit", "test"):
        if part in row:
            yield f"{part}, s", row[part], figures if part == "test" else ""
    for second in row.get("seconds", ()):
        yield "all metrics, s", second, figures
    for batch in ("1", "32"):
        for value in row.get(batch, ()):
            yield f"batch {batch}, ms an image", value, ""
    epochs = row.get("epochs", ())
    for epoch in epochs:
        yield "an epoch, s", epoch, ""
    if epochs:
        last, reached = epochs[-1], [e["image_auroc"] for e in epochs]
        total = {c: sum(e[c] for e in epochs) + last.get("besides", {}).get(c, 0) for c in ("cpu", "wall")}
        yield "until the goal, s", total, f"{len(epochs)} epochs, image AUROC {', '.join(f'{v:.3f}' for v in reached)}"


if __name__ == "__main__":
    main()
