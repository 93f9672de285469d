"""What a run was made with."""

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
    """Versions, commit, hardware, data and seed; no variable of the environment, which may hold secrets."""
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


def other_code(made: Mapping[str, Any]) -> str:
    """Which program an environment was recorded by, and which this is, where they differ; else, or if it is unknown,
    nothing.
    """
    if not made:
        return ""
    then = _program(made.get("packages", {}).get("anomalib_lite"), made.get("git_commit"))
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
    """The package's commit, with `+changes` where tracked files differ from it; None outside a checkout."""

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


def chosen() -> dict[str, Any]:
    """`choices` (group -> option, None where a group has none) and `overrides`, as one writes them; Hydra's own left
    out.
    """
    hydra = HydraConfig.get()
    choices = {group: option for group, option in hydra.runtime.choices.items() if "hydra/" not in group}
    plain = {group: option for group, option in choices.items() if "@" not in group}
    return {"choices": plain, "overrides": list(hydra.overrides.task)}
