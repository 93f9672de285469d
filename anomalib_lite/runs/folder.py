"""The folder of one run: its name, a hash of what defines it, its files, and a status that survives a kill."""

from __future__ import annotations

import csv
import ctypes
import importlib.metadata
import json
import logging
import math
import os
import platform
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from anomalib_lite.errors import UserError, root_user_error
from anomalib_lite.runs.artifacts import artifact_key, named_content
from anomalib_lite.runs.atomic import disk_full, remove_parts, write_csv, write_json, write_text

log = logging.getLogger(__name__)

# settings that do not change the result: paths, tracking, names, limits
UNDEFINING = ("paths", "tracking", "force", "experiment_name", "ram_limit_mb", "trust")
LONGEST = 200  # largest length of a folder's name in bytes
RECORD = "ANOMALIB_LITE_RECORD"  # environment variable: names a file to write the run folder's path to
WHERE = ("root", "manifest", "template", "artifacts")  # paths in the data settings; the fingerprint covers them
GENERATED = "generated"  # subfolder for the report of the run's generated images
COLUMNS = ("image", "label", "defect", "score", "nok")  # columns of predictions.csv
PACKAGES = (
    "anomalib_lite", "torch", "torchvision", "lightning", "timm", "hydra-core", "omegaconf", "numpy", "scipy",
    "opencv-python", "wandb",
)  # fmt: skip
MODEL, THRESHOLD, DATA, TEMPLATE, CHECKPOINTS = (
    "model.safetensors", "threshold.json", "data.json", "template.png", "checkpoints",
)  # fmt: skip


def run_hash(config: Mapping[str, Any], data_fingerprint: str) -> str:
    """Hashes the data and the resolved configuration, without settings that do not change the result: 10 hex digits."""
    defining = {key: value for key, value in config.items() if key not in UNDEFINING}
    for switch in ("validate", "start_from", "missed", "contamination", "roi", "ignore"):
        if not defining.get(switch):  # has no effect when off
            defining.pop(switch, None)
    if "validate" in defining:
        defining["validate"] = "unlearned"  # the kinds of synthetic defects, as other kinds give other results
    defining["data"] = _without_paths(defining.get("data", {}))
    if (defining.get("teacher") or {}).get("nok"):
        nok = named_content(defining["teacher"]["nok"], config.get("data", {}).get("root"))
        defining["teacher"] = defining["teacher"] | {"nok": nok}
    if defining.get("missed"):
        defining["missed"] = named_content(defining["missed"])
    return artifact_key(defining, data_fingerprint)[:10]


def _without_paths(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the data's settings without paths, also in the parts of joined data sets."""
    parts = {"parts": [_without_paths(part) for part in data["parts"]]} if "parts" in data else {}
    return {k: v for k, v in data.items() if k not in WHERE} | parts


def folder_name(parts: Iterable[Any]) -> str:
    """Joins the parts of a folder's name; shortens the middle, as file systems limit names to 255 bytes."""
    name = "-".join(str(part).replace("/", "_") for part in parts)
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[: LONGEST // 2].decode(errors='ignore')}...{name[-LONGEST // 3 :]}"


def announce(folder: Path) -> None:
    """Writes the run folder's path to the file that RECORD names, for the process that started this one."""
    if file := os.environ.get(RECORD):
        write_text(file, str(folder.absolute()))


class RunFolder:
    """Reads and writes one run's folder.

    Missing and damaged files (after a full disk or a power cut) read as empty and never make a run count as done;
    damaged ones are listed in `damaged`. `status["state"]` is running, done, failed or stopped.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.damaged: list[str] = []
        self.status: dict[str, Any] = self._json("status.json")
        self._current: tuple[str, float] | None = None  # stage and when it began

    @property
    def done(self) -> bool:
        return self.status.get("state") == "done" and bool(self.metrics or not (self.path / "metrics.json").exists())

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration; reading it takes 0.1 s."""
        try:
            value = OmegaConf.to_container(OmegaConf.load(self.path / "config.yaml"))
        except FileNotFoundError:
            return {}
        except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError):  # OSError: the file is no mapping
            value = None
        return cast(dict[str, Any], value) if isinstance(value, dict) and value else self._damaged("config.yaml")

    @property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

    @property
    def metrics(self) -> dict[str, Any]:
        return self._json("metrics.json")

    @property
    def data(self) -> dict[str, Any]:
        """Returns the record of the run's data, see `data.splits.describe`."""
        return self._json(DATA)

    @property
    def threshold(self) -> dict[str, Any]:
        """Returns the values of a `scoring.Threshold`; for an evaluation's folder, those in its metrics."""
        return self._json(THRESHOLD) or self.metrics.get("threshold") or {}

    def predictions(self) -> list[dict[str, Any]]:
        """Reads predictions.csv with types: image, label (0, 1 or None), defect (or None), score, nok."""
        return self._rows("predictions.csv", _typed)

    def history(self) -> list[dict[str, str]]:
        """Reads history.csv, the losses of each epoch, as strings."""
        return self._rows("history.csv", lambda row: {k: v or "" for k, v in row.items() if k})

    def write_predictions(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes predictions.csv: image, label (0 OK, 1 NOK, empty: unknown), defect, score, nok (0 or 1).

        Data of several categories has a column `category`, too.
        """
        rows = [{**row, "nok": int(row["nok"])} for row in rows]
        columns = list(COLUMNS) + ["category"] * any(row.get("category") is not None for row in rows)
        # the csv module writes None as an empty cell, and floats like repr
        write_csv(self.path / "predictions.csv", [columns, *([row.get(name) for name in columns] for row in rows)])

    def start(self, config: Mapping[str, Any], environment: Mapping[str, Any], command: Sequence[str] = ()) -> None:
        """Starts or restarts the run, with a resolved configuration; removes temporary files and old results.

        command: starts this run alone.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        remove_parts(self.path, idle=-math.inf)  # the caller holds the run's lock
        for old in ("metrics.json", "predictions.csv"):
            (self.path / old).unlink(missing_ok=True)
        if config.get("data"):
            config = {**config, "data": _with_absolute_paths(config["data"])}
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        vars(self).pop("config", None)
        write_json(self.path / "environment.json", environment)
        starts = self.status.get("starts", 0) + 1
        command = list(command) or sys.argv
        self.status = {"state": "running", "command": command, "starts": starts, "started": _now(), "timings": {}}
        self._write()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Records the block's duration in seconds under `timings` of the status."""
        self._current = name, time.perf_counter()
        yield
        release_memory()
        self.status["timings"], self._current = self.seconds(), None
        self._write()

    def seconds(self) -> dict[str, float]:
        """Returns the duration of each stage, of the current one so far."""
        current = {name: round(time.perf_counter() - begin, 3) for name, begin in filter(None, [self._current])}
        return self.status.get("timings", {}) | current

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Logs the block to run.log, and records how it ended: done, stopped (Ctrl-C, SIGTERM) or failed.

        Raises UserError if the disk is full, whichever library wrote to it.
        """
        handler = logging.FileHandler(self.path / "run.log", encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        handler.handleError = lambda record: None  # type: ignore[method-assign]  # no repeated errors when the disk is full
        logging.getLogger().addHandler(handler)
        try:
            yield
            self._end({"state": "done"})
        except BaseException as error:
            full = disk_full(error, self.path)
            with suppress(OSError, UserError):
                self._end(_error_status(full or error))
            if full:
                raise full from error
            raise
        finally:
            logging.getLogger().removeHandler(handler)
            with suppress(OSError):
                handler.close()

    def _end(self, outcome: Mapping[str, str]) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.status |= {**outcome, "finished": _now(), "peak_memory_mb": round(peak)}
        self._write()

    def _write(self) -> None:
        write_json(self.path / "status.json", self.status)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError:
            value = None
        return value if isinstance(value, dict) else self._damaged(name)

    def _rows(self, name: str, read: Callable[[dict[str, str]], dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            with (self.path / name).open(newline="", encoding="utf-8") as stream:
                return [read(row) for row in csv.DictReader(stream)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (ValueError, TypeError, KeyError, csv.Error):
            self._damaged(name)
            return []

    def _damaged(self, name: str) -> dict[str, Any]:
        if name not in self.damaged:
            log.warning("%s is damaged, as after a full disk or a power cut: it is read as empty", self.path / name)
            self.damaged.append(name)
        return {}


def open_finished(path: str | Path) -> RunFolder:
    """Opens a run that has a trained model; raises UserError if files are missing or damaged."""
    run = RunFolder(Path(path).expanduser())
    for name in ("config.yaml", MODEL, THRESHOLD, DATA):
        if not (run.path / name).is_file():
            reason = f"holds no finished training ({name} is missing)" if run.path.exists() else "does not exist"
            raise UserError(
                f"{run.path.absolute()} {reason}. Use the folder that `anomalib-lite train` printed, e.g. "
                "run=runs/default/..."
            )
    if not (run.config and run._json(THRESHOLD) and run.data):
        raise UserError(
            f"{run.path.absolute()} cannot be used: {run.damaged[0]} is damaged. Train it again with force=true."
        )
    return run


def release_memory() -> None:
    """Returns freed memory to the system; glibc, with the settings of `cli.py`, keeps it, so peaks would add up."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # musl has none
        libc.malloc_trim(0)


def _with_absolute_paths(data: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the data's paths absolute, so that the data is found from any working directory."""
    data = dict(data)
    for key in WHERE:
        if data.get(key) is not None and (path := Path(str(data[key])).expanduser()).exists():
            data[key] = str(path.absolute())
    return data | ({"parts": [_with_absolute_paths(part) for part in data["parts"]]} if "parts" in data else {})


def _error_status(error: BaseException) -> dict[str, str]:
    """Returns the fields of status.json that describe an error."""
    interrupted = error.__context__ if isinstance(error, SystemExit) else None  # Lightning turns Ctrl-C into SystemExit
    cause = root_user_error(error) or interrupted or error
    stopped = isinstance(cause, (KeyboardInterrupt, SystemExit))
    status = {"state": "stopped" if stopped else "failed", "error": f"{type(cause).__name__}: {cause}"}
    if not stopped and not isinstance(cause, UserError):
        status["traceback"] = traceback.format_exc()
    return status


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    return {
        "image": row["image"],
        "label": int(row["label"]) if row["label"] else None,
        "defect": row["defect"] or None,
        "score": float(row["score"]),
        "nok": row["nok"] == "1",
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def refuse_run(output: Path) -> None:
    """Raises UserError if a folder to write results to is that of a trained run, whose own results would be lost."""
    if (output / MODEL).is_file():
        raise UserError(f"{output} is the folder of a run, whose results would be lost: set output to another folder.")


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
