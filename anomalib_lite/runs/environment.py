"""Records the environment of a run: versions, commit, hardware, configuration choices."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

PACKAGES = (
    "anomalib_lite", "torch", "torchvision", "lightning", "timm", "hydra-core", "omegaconf", "numpy", "scipy",
    "opencv-python", "wandb",
)  # fmt: skip


def environment(seed: int, data_fingerprint: str) -> dict[str, Any]:
    """Returns versions, commit, hardware, data and seed; no environment variables, as they may hold secrets."""
    import torch

    return {
        "seed": seed,
        "data_fingerprint": data_fingerprint,
        "git_commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def version_note(recorded: Mapping[str, Any]) -> str:
    """Compares the program's version with that of a recorded environment; empty where they agree or it is unknown."""
    if not recorded:
        return ""
    then = _program(recorded.get("packages", {}).get("anomalib_lite"), recorded.get("git_commit"))
    now = _program(_version("anomalib_lite"), _commit())
    return f"made by anomalib_lite {then}, this is {now}; " if then != now else ""


def _program(version: str | None, commit: str | None) -> str:
    digits, plus, changes = (commit or "no commit").partition("+")
    return f"{version} ({digits[:9]}{plus}{changes})"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Returns the package's commit, with `+changes` if tracked files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603 - our own
        return done.stdout.strip()

    try:
        if not git("ls-files", __file__):
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def hydra_choices() -> dict[str, Any]:
    """Returns `choices` (group -> option or None) and `overrides` of the command line, without Hydra's own groups."""
    hydra = HydraConfig.get()
    choices = {k: v for k, v in hydra.runtime.choices.items() if "hydra/" not in k and "@" not in k}
    return {"choices": choices, "overrides": list(hydra.overrides.task)}
