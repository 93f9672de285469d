"""A real Slurm and a real Ray cluster on this machine, for as long as a test needs them."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.experimental.callback import Callback

from tests.commands import one_thread

HEAD, NODE = "127.0.0.2", "127.0.0.3"
HERE = "ANOMALIB_LITE_TEST_NODE"


class Where(Callback):
    """Each job of a multirun leaves the name of its node in `folder`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_job_start(self, config, **_) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / str(config.hydra.job.num)).write_text(os.environ.get(HERE, ""))


@contextlib.contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """A controller and a node; the environment with which commands reach them."""
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]:
        pytest.skip(f"no Slurm here ({', '.join(missing)} missing): apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("Slurm's node daemon wants to be root")
    with _folder("slurm-") as folder, contextlib.ExitStack() as stack:
        for name in ("state", "spool"):
            (folder / name).mkdir()
        values = {"FOLDER": folder, "CONTROLLER": free_port(), "NODE": free_port(), "CORES": os.cpu_count()}
        text = Path(__file__).with_name("slurm.conf").read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        (folder / "slurm.conf").write_text(text)
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o400)
        environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        files = {"socket": "socket", "key-file": "key", "seed-file": "seed", "pid-file": "pid", "log-file": "log"}
        options = [f"--{option}={folder}/munge.{end}" for option, end in files.items()]
        _daemon(stack, folder, environment, "munged", "--foreground", "--force", *options)
        until((folder / "munge.socket").exists, folder)
        _daemon(stack, folder, environment, "slurmctld", "-D", "-i")
        _daemon(stack, folder, environment, "slurmd", "-D", "-N", "localhost")

        def idle() -> bool:
            seen = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
            return seen.stdout.strip() == "idle"

        until(idle, folder)
        # jobs that a failed test leaves outlive the daemons
        stack.callback(subprocess.run, ["scancel", "--partition=main"], env=environment, timeout=30)
        yield {"SLURM_CONF": environment["SLURM_CONF"]}


@contextlib.contextmanager
def ray_cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """Two nodes of one core, each a tree of processes of its own: the head's address, and the environment to join."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'anomalib-lite[ray]'")
    with _folder("ray-") as folder, contextlib.ExitStack() as stack:
        (folder / "token").write_text(secrets.token_hex(32))
        shared = {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        address = f"{HEAD}:{free_port()}"
        start = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
        start += ["--object-store-memory=80000000", "--disable-usage-stats"]
        port = address.split(":")[1]
        head = ["--head", f"--node-ip-address={HEAD}", f"--port={port}", "--include-dashboard=false"]
        for name, options in {
            HEAD: [*head, f"--temp-dir={folder}/head"],
            NODE: [f"--address={address}", f"--node-ip-address={NODE}"],
        }.items():
            _daemon(stack, folder, one_thread(**shared, **{HERE: name}), *start, *options, log=f"{name}.log")
            until(lambda name=name: "Ray runtime started" in (folder / f"{name}.log").read_text(), folder)
        yield address, shared


def until(happened: Callable[[], bool], folder: Path, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            logs = "\n".join(
                f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in folder.glob("*.log")
            )
            pytest.fail(f"a daemon did not come up:\n{logs}")
        time.sleep(0.2)


def _daemon(
    stack: contextlib.ExitStack, folder: Path, environment: dict[str, str], *command: str, log: str | None = None
) -> None:
    output = stack.enter_context((folder / (log or f"{command[0]}.log")).open("w"))
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL
    )
    stack.callback(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    """Of a short name: the sockets that lie in it may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
