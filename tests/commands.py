"""Running the command line, as a user does or inside this process; reading what it leaves behind."""

import contextlib
import csv
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit status and what it wrote to the terminal."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


def command_line(*arguments: str, cwd: Path, script: Path | None = None, **environment: str) -> Outcome:
    """Runs `anomalib-lite` as a user does, on one thread; `script` is the installed command, else the module."""
    command = [str(script)] if script else [sys.executable, "-m", "anomalib_lite.cli"]
    settings = one_thread(**environment)
    done = subprocess.run([*command, *arguments], cwd=cwd, env=settings, capture_output=True, text=True)
    return Outcome(done.returncode, done.stdout, done.stderr)


KILLED = """
import os, signal
from lightning import Trainer

save, left = Trainer.save_checkpoint, list(range(TIMES))

def save_and_die(self, filepath, *args, **kwargs):
    save(self, filepath, *args, **kwargs)
    if str(filepath).endswith("last.ckpt"):
        left.pop()
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

Trainer.save_checkpoint = save_and_die
from anomalib_lite import cli
cli.main()
"""


def killed_at_a_checkpoint(*arguments: str, times: int = 1) -> None:
    """A command whose process ends itself, as the system would, when so many checkpoints are on the disk."""
    command = [sys.executable, "-c", KILLED.replace("TIMES", str(times)), *arguments]
    done = subprocess.run(command, env=one_thread(ANOMALIB_LITE_MALLOC="0"), capture_output=True)
    assert done.returncode == -signal.SIGKILL


def one_thread(**more: str) -> dict[str, str]:
    """This process's environment, less what pytest added, with the checkout importable from every folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "MALLOC"))}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | more


def in_process(*arguments: str) -> Outcome:
    from anomalib_lite import cli

    out, err, status = io.StringIO(), io.StringIO(), 0
    with _kept_state(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.environ[cli.MALLOC_SWITCH] = "0"
        sys.argv = ["anomalib-lite", *arguments]
        try:
            cli.main()
        except SystemExit as stop:
            status = 0 if stop.code is None else stop.code if isinstance(stop.code, int) else 1
            if isinstance(stop.code, str):
                err.write(stop.code)
    return Outcome(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _kept_state() -> Iterator[None]:
    """Hydra sets the root logger anew; the command line sets argv and a variable."""
    root, argv, environment = logging.getLogger(), sys.argv, dict(os.environ)
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:], sys.argv = handlers, argv
        root.setLevel(level)
        os.environ.clear()
        os.environ.update(environment)


def ran(*arguments: str) -> Outcome:
    """A command, in this process, that does what it is asked for."""
    done = in_process(*arguments)
    assert done.status == 0, done.err
    return done


def refused(*arguments: str) -> str:
    """What a command, in this process, says in words when it refuses."""
    done = in_process(*arguments)
    assert done.status == 2 and "Traceback" not in done.err, done.err
    return done.err


def trained(*overrides: str) -> Path:
    """The folder of the run that `anomalib-lite train` makes with these overrides, in this process."""
    return Path(ran("train", *overrides).out.splitlines()[-1]).absolute()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def scores(path: Path) -> dict[str, float]:
    """Of predictions.csv, by the image's folder and name."""
    return {"/".join(Path(row["image"]).parts[-2:]): float(row["score"]) for row in read_rows(path)}


def only_run(folder: Path) -> Path:
    (run,) = (folder / "runs" / "default").iterdir()
    return run
