"""The folder of one run: named by what defines the run, with a status that survives a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from anomalib_lite.errors import UserError
from anomalib_lite.runs.artifacts import by_content
from anomalib_lite.runs.atomic import write_json, write_text

# what does not change the result: where things lie, how they are tracked, and how a run is called
UNDEFINING = ("paths", "tracking", "force", "experiment_name", "run_name", "ram_limit_mb")
RECORD = "ANOMALIB_LITE_RECORD"  # variable: a file that gets the run folder's name
WHERE = ("root", "manifest", "template", "artifacts")  # of the data: what lies there is in its fingerprint


def run_hash(cfg: DictConfig, data_fingerprint: str) -> str:
    """Ten hex digits over the resolved configuration, less what does not change the result, and the data."""
    config: dict[str, Any] = by_content(OmegaConf.to_container(cfg, resolve=True))
    defining = {key: value for key, value in config.items() if key not in UNDEFINING}
    if not defining.get("validate"):  # off, it changes nothing
        defining.pop("validate", None)
    defining["data"] = {k: v for k, v in defining.get("data", {}).items() if k not in WHERE}
    text = json.dumps([defining, data_fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def announce(folder: Path) -> None:
    """Tells whoever started this process which run it is, where a file for that is named."""
    if file := os.environ.get(RECORD):
        write_text(file, str(folder.absolute()))


class RunFolder:
    """Created or reopened; `status.json` says running, done or failed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.mkdir(parents=True, exist_ok=True)
        self.status: dict[str, Any] = {}
        if (path / "status.json").is_file():
            self.status = json.loads((path / "status.json").read_text())

    @property
    def done(self) -> bool:
        return self.status.get("state") == "done"

    def start(self, cfg: DictConfig, environment: dict[str, Any], command: Sequence[str] = ()) -> None:
        """command: what starts this run alone. Whoever starts a run holds its lock: hidden files are torn ones."""
        for torn in self.path.glob(".*"):
            if torn.name != ".lock" and torn.is_file():
                torn.unlink()
        for key in WHERE:  # so that the data is found from another folder, too
            value = OmegaConf.select(cfg, f"data.{key}")
            if value is not None and Path(str(value)).expanduser().exists():
                OmegaConf.update(cfg, f"data.{key}", str(Path(str(value)).expanduser().absolute()))
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        write_json(self.path / "environment.json", environment)
        starts = self.status.get("starts", 0) + 1
        command = list(command) or sys.argv
        self.status = {"state": "running", "command": command, "starts": starts, "started": _now(), "timings": {}}
        self._write()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage into `timings` (seconds)."""
        begin = time.perf_counter()
        yield
        self.status["timings"][name] = round(time.perf_counter() - begin, 3)
        self._write()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Ends the run as done, or as failed with the error's text."""
        handler = logging.FileHandler(self.path / "run.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logging.getLogger().addHandler(handler)
        try:
            yield
            self.status["state"] = "done"
        except BaseException as error:
            # Lightning answers Ctrl-C with an exit
            cause = error.__context__ if isinstance(error, SystemExit) and error.__context__ else error
            self.status |= {"state": "failed", "error": f"{type(cause).__name__}: {cause}"}
            if not isinstance(cause, (UserError, KeyboardInterrupt)):
                self.status["traceback"] = traceback.format_exc()
            raise
        finally:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            self.status |= {"finished": _now(), "peak_memory_mb": round(peak)}
            self._write()
            logging.getLogger().removeHandler(handler)
            handler.close()

    def _write(self) -> None:
        write_json(self.path / "status.json", self.status)


def open_finished(path: str | Path) -> tuple[Path, DictConfig]:
    """The folder and configuration of a run that has a trained detector.

    Errors: UserError where there is none.
    """
    folder = Path(path).expanduser()
    for name in ("config.yaml", "model.safetensors", "threshold.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder.absolute()} holds no finished training ({name} is missing). Name the folder that "
                "`anomalib-lite train` printed, e.g. run=runs/default/..."
            )
    return folder, OmegaConf.load(folder / "config.yaml")  # type: ignore[return-value]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
