"""Kills at random moments: the same command goes on, what was finished is whole, the end is an undisturbed one's.

A process is killed at its n-th change of a file, or after a share of the time that an undisturbed one takes.
"""

import contextlib
import csv
import multiprocessing as mp
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import yaml

from anomalib_lite.rendering.product import write_sheets
from anomalib_lite.settings.data import SheetConfig
from tests.jobs.test_generate import arguments as generate
from tests.jobs.test_generate import products  # noqa: F401 - a fixture
from tests.sweeps.conftest import COMMAND, fake_training

pytestmark = pytest.mark.slow
AT_A_CHANGE, AT_A_TIME = 8, 4  # kills of each verb
GROWING = (
    "status.json", "run.log", "config.yaml", "environment.json", "study.journal", "study.journal.lock", "starts",
)  # fmt: skip
TIMED = ("ms_per_image", "seconds", "timings", "folder", "duration_s")


def work(folder: str, command: Sequence[str], limit: int) -> None:
    """The body of a process: a verb in `folder`, killed at change number `limit`; else it tells how many it made."""
    os.setsid()
    os.chdir(folder)
    os.environ |= {"ANOMALIB_LITE_MALLOC": "0", "OMP_NUM_THREADS": "1"}
    stream = os.open("said.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    from anomalib_lite import cli
    from anomalib_lite.jobs import sweep

    sweep.training = fake_training
    changes = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal changes
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")) and here(arguments[0]):
            changes += 1
            if changes == limit:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    sys.argv = ["anomalib-lite", *command]
    try:
        cli.main()
    finally:
        total, changes = changes, -(10**9)
        Path("changes").write_text(str(total))


def here(path: object) -> bool:
    return isinstance(path, str | os.PathLike) and os.path.abspath(os.fspath(path)).startswith(os.getcwd())


@pytest.fixture(scope="module")
def start():
    """Starts a command in a process that has all libraries already: start(folder, command, limit=0)."""
    context = mp.get_context("forkserver")
    jobs = ("train", "generate", "segment", "predict", "sweep")
    context.set_forkserver_preload(
        ["tests.test_kills", "lightning", "timm", *(f"anomalib_lite.jobs.{j}" for j in jobs)]
    )

    def begin(folder: Path, command: Sequence[str], limit: int = 0) -> BaseProcess:
        process = context.Process(target=work, args=(str(folder), list(command), limit))
        process.start()
        return process

    return begin


@pytest.fixture
def commands(tiny, tiny_set, products, tmp_path):  # noqa: F811
    sheets = write_sheets(tmp_path / "sheets", 3, SheetConfig(width=320, height=240))
    entries = {
        "method": "bayes", "metric": {"name": "figure", "goal": "minimize"}, "command": COMMAND, "name": "kills",
        "parameters": {"x": {"min": 0.0, "max": 4.0}},
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(entries))
    return {
        "train": ["train", *tiny, "detector.epochs=3", "augment=flips_color"],
        "generate": [*generate(products, "+generator.damage=3"), "output=out"],
        "segment": ["segment", f"images={sheets}/panels", f"template={sheets}/template.png", "workers=1"],
        "predict": ["predict", f"images={tiny_set}", "output=out"],
        "sweep": ["sweep", str(tmp_path / "sweep.yaml"), "trials=4"],
    }


def contents(folder: Path) -> dict[str, bytes]:
    """What a user sees there, less what grows, the seconds that things took, and the logs of single trials.

    What a kill left half written has a hidden name, which nothing reads.
    """
    kept = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        hidden = any(part.startswith(".") for part in Path(name).parts)
        hidden |= path.parent.name == "checkpoints"  # of a training that has not ended
        if hidden or not path.is_file() or path.name in (*GROWING, "said.log", "changes"):
            continue
        content = path.read_bytes()
        if name.endswith((".html", ".log", ".run", "/seconds.json", "/losses.jsonl")) or "/figures/" in name:
            kept[name] = b""  # is there
        elif name.endswith(".tiff"):
            kept[name] = b""  # the last digits change with the images that go through the network together
        elif name.endswith("out/predictions.csv"):
            rows = csv.DictReader(content.decode().splitlines())
            kept[name] = repr(sorted((r["image"], r["nok"]) for r in rows)).encode()
        elif name.endswith("trials.csv"):
            rows = list(csv.DictReader(content.decode().splitlines()))
            kept[name] = repr(sorted((r["state"], r["figure"], r["x"]) for r in rows if r["state"] == "done")).encode()
        else:
            told = rb'"(%s)":\s*(\{[^}]*\}|[^,\n}]*)' % "|".join(TIMED).encode()
            kept[name] = re.sub(told, b"", content) if name.endswith(".json") else content
    return kept


def killed(start: Callable, folder: Path, command: list[str], changes: int, seconds: float) -> bool:
    """Whether it was killed before it ended: at a change, or after some seconds."""
    process = start(folder, command, changes)
    process.join(seconds or None)
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("verb", ["train", "generate", "segment", "predict", "sweep"])
def test_after_a_kill_the_same_command_ends_as_an_undisturbed_one(verb, start, commands, tmp_path):
    draw, command = random.Random(verb), commands[verb]
    if verb == "predict":
        (tmp_path / "model").mkdir()
        start(tmp_path / "model", commands["train"]).join()
        (run,) = (tmp_path / "model/runs/default").iterdir()
        command = [*command, f"run={run}"]
    whole = tmp_path / "whole"
    whole.mkdir()
    begin = time.monotonic()
    process = start(whole, command)
    process.join()
    seconds, total = time.monotonic() - begin, int((whole / "changes").read_text())
    assert process.exitcode in (0, None), (whole / "said.log").read_text()
    expected, kills = contents(whole), 0
    moments = [(n, 0.0) for n in sorted(draw.sample(range(1, total + 1), AT_A_CHANGE))]
    moments += [(0, draw.random() * seconds) for _ in range(AT_A_TIME)]
    for number, (change, wait) in enumerate(moments):
        folder = tmp_path / f"kill{number}"
        folder.mkdir()
        while not killed(start, folder, command, change, wait):  # it was faster than the undisturbed one
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            wait, change = wait * 0.7, max(0, change - 1)
        kills += 1
        left, moment = contents(folder), f"{verb}, killed at change {change} or after {wait:.2f} s"
        for name, content in left.items():
            lines = name.endswith(("history.csv", "trainings.txt"))
            whole_now = expected[name].startswith(content) if lines else expected.get(name) == content
            assert whole_now or verb == "sweep", f"{moment}: {name} is not whole"
        again = start(folder, command)
        again.join()
        said = (folder / "said.log").read_text()
        refused = verb == "segment" and "manifest.csv already exists" in said  # finished: labels may belong to it
        assert again.exitcode == (2 if refused else 0) and "Traceback" not in said, f"{moment}: {said}"
        found = contents(folder)
        if verb == "sweep":  # a trial that a kill cut off is tried again, under another number
            found = {name: found.get(name) for name in expected if "/trials/" not in name}
            expected = {name: expected[name] for name in found}
        assert found.keys() == expected.keys(), f"{moment}: {found.keys() ^ expected.keys()}"
        assert not (differ := [name for name in found if found[name] != expected[name]]), f"{moment}: {differ}"
    assert kills == AT_A_CHANGE + AT_A_TIME
