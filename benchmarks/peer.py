"""Compares the speed of this project with anomalib 2.7: same weights, same images, same core, in alternation.

    python benchmarks/peer.py --data MVTEC_AD [--category bottle] [--repeats 5] [--only TASK ...] [--sides SIDE ...]
                              [--shots N] [--work build/peer] [--peer-python PYTHON | --share-torch] [--report]

Without --peer-python, the first run creates a virtual environment for the peer below ~/.cache/anomalib_lite with pip
(about 5 GB; with --share-torch, which lets it use this Python's packages, 0.5 GB). Every measurement is a separate
process on one core (taskset) and one thread. The sides alternate: ours, the peer as installed, and the peer with the
malloc settings that our command line sets for itself. Results are appended to WORK/results.jsonl, so that an
interrupted run resumes; those of other data, settings or commits of ours are neither resumed nor shown. --report only
prints the tables of the last job. On a shared machine compare CPU seconds (user and system);
wall seconds are given as well.
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
from anomalib_lite.runs.artifacts import artifact_key

ROOT = Path(__file__).resolve().parents[1]
VERSION = "2.7.0"
KEYS = ("job", "commit", "task", "side", "number")  # of a measurement
SIDES = ("ours", "peer", "peer, our malloc")
# task: our task, the peer's task, and the largest number of runs
TASKS = {
    "evaluate": ("evaluate", "evaluate", 1),  # repeats within the process
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
    parser.add_argument("--epochs", type=int, default=10, help="largest number of STFPM's epochs")
    parser.add_argument("--goal", type=float, default=0.99, help="image AUROC at which STFPM's training ends")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peer")
    parser.add_argument("--shots", type=int, help="number of OK images that both sides learn from; default: all")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--share-torch", action="store_true")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.data is None and not args.report:
        print("Skipped: set --data to the folder of MVTec AD, see --help.")
        return
    work = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    results = work / "results.jsonl"
    if args.report:
        rows = read(results)
        job = next((row["job"] for row in reversed(rows) if "job" in row), None)
        commit = next((row["commit"] for row in reversed(rows) if row.get("job") == job and row.get("commit")), None)
    else:
        peer = args.peer_python or peer_python(args.share_torch)
        job, commit = measure(args, peer, work, results)
    for line in tables(of_job(read(results), job, commit)):
        print(line)


def of_job(rows: Sequence[dict[str, Any]], job: str | None, commit: str | None) -> list[dict[str, Any]]:
    return [row for row in rows if job and row.get("job") == job and row.get("commit") in (None, commit)]


def measure(args: argparse.Namespace, peer: Path, work: Path, results: Path) -> tuple[str, str]:
    """Measures what is missing; returns the hash of the job, which the rows of both sides have, and our commit."""
    job = {
        "root": str(args.data.absolute()), "category": args.category, "work": str(work), "goal": args.goal,
        "seed": 0, "epochs": args.epochs, "batch": 32, "batches": [1, 32], "coreset": 0.01, "loops": 32,
        "repeats": args.repeats, "shots": args.shots,
    }  # fmt: skip
    defining = {key: value for key, value in job.items() if key not in ("work", "repeats")}
    for task in ("prepare", "maps"):
        job |= run("ours", task, job, args, peer)
    job["bank"] = round(job["coreset"] * job["positions"] * job["images"])
    job_hash, commit = artifact_key(defining, job["images"], job["tested"], VERSION)[:8], our_commit()
    for task in args.only:
        ours, theirs, most = TASKS[task]
        for number in range(min(most, args.repeats)):
            for side in args.sides:
                name = ours if side == "ours" else theirs
                key = {"job": job_hash, "task": task, "side": side, "number": number}
                key |= {"commit": commit} if side == "ours" else {}
                if name is None or any(key.items() <= row.items() for row in read(results)):
                    continue
                print(f"{task}, {side}, {number + 1}", file=sys.stderr, flush=True)
                row = key | run(side, name, job | {"seed": number}, args, peer)
                with results.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")
    return job_hash, commit


def our_commit() -> str:
    """Returns the commit of this checkout, with a hash of its changes; empty without git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()

    changes = git("diff", "HEAD")
    return git("rev-parse", "--short", "HEAD") + (f"+{artifact_key(changes)[:6]}" if changes else "")


def run(side: str, task: str, job: dict[str, Any], args: argparse.Namespace, peer: Path) -> dict[str, Any]:
    """Runs one measurement in its own process; exits with its output if it fails."""
    file = Path(job["work"]) / "job.json"
    file.write_text(json.dumps(job))
    python, script = (sys.executable, "our_side.py") if side == "ours" else (str(peer), "anomalib_side.py")
    clean = {k: v for k, v in os.environ.items() if k not in MALLOC and k != "PYTHONPATH"}
    clean |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT) if side == "ours" else ""}
    settings = clean if side == "peer" else clean | MALLOC
    command = ["taskset", "-c", str(args.core), python, str(ROOT / "benchmarks" / "peers" / script), task, str(file)]
    done = subprocess.run(command, env=settings, cwd=job["work"], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"{side}: {task} failed\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def peer_python(share: bool) -> Path:
    """Returns the Python of an environment with the peer; creates the environment if needed."""
    folder = Path.home() / ".cache" / "anomalib_lite" / f"anomalib-{VERSION}{'-shared' if share else ''}"
    python = folder / "bin" / "python"
    if (folder / "installed").is_file():
        return python
    venv.create(folder, with_pip=True, clear=True)
    packages = [f"anomalib=={VERSION}"]
    if share:
        site_packages = next(path for path in sys.path if path.endswith("site-packages"))
        next(folder.glob("lib/python*/site-packages")).joinpath("zz_shared.pth").write_text(site_packages + "\n")
    else:
        packages += ["torch", "torchvision"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    (folder / "installed").write_text(VERSION)
    return python


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


def tables(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields Markdown tables: medians, the number of values, and ratios of CPU seconds to ours."""
    for task in TASKS:
        of_task = [row for row in rows if row["task"] == task]
        if not of_task:
            continue
        yield f"\n## {task}\n"
        yield "| measure | side | CPU | wall | values | ratio | figures |\n|---|---|---|---|---|---|---|"
        if task == "limits":
            yield "".join(
                f"| {name} | ours | {value:.4g} | | 1 | | |\n" for name, value in of_task[0].items() if name not in KEYS
            )
            continue
        for name in dict.fromkeys(name for row in of_task for name, *_ in values(row)):
            base = None
            for side in SIDES:
                found = [v for row in of_task if row["side"] == side for v in values(row) if v[0] == name]
                if not found:
                    continue
                cpu, wall = (statistics.median(v[1][clock] for v in found) for clock in ("cpu", "wall"))
                base = base or cpu
                yield f"| {name} | {side} | {cpu:.4g} | {wall:.4g} | {len(found)} | {cpu / base:.2f} | {found[-1][2]} |"
        for side in SIDES:
            if peaks := [row["peak_mb"] for row in of_task if row["side"] == side]:
                yield f"| peak memory, MB | {side} | {statistics.median(peaks):.0f} | | {len(peaks)} | | |"


def values(row: dict[str, Any]) -> Iterator[tuple[str, dict[str, float], str]]:
    """Yields the values of a measurement: name, seconds (or milliseconds per image) by clock, and figures."""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in row.get("figures", {}).items())
    for part in ("fit", "test"):
        if part in row:
            yield f"{part}, s", row[part], figures if part == "test" else ""
    for second in row.get("seconds", ()):
        yield "all metrics, s", second, figures
    for batch in ("1", "32"):
        for value in row.get(batch, ()):
            yield f"batch {batch}, ms per image", value, ""
    epochs = row.get("epochs", ())
    for epoch in epochs:
        yield "one epoch, s", epoch, ""
    if epochs:
        last, reached = epochs[-1], [e["image_auroc"] for e in epochs]
        total = {c: sum(e[c] for e in epochs) + last.get("besides", {}).get(c, 0) for c in ("cpu", "wall")}
        yield "until the goal, s", total, f"{len(epochs)} epochs, image AUROC {', '.join(f'{v:.3f}' for v in reached)}"


if __name__ == "__main__":
    main()
