"""One trial: a training in a process of its own, watched through the files that it writes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import write_json
from anomalib_lite.runs.flat import flat
from anomalib_lite.runs.folder import RECORD
from anomalib_lite.sweeps.spec import Objective

WATCHED = "val_loss"
PATIENCE = 20.0  # seconds between asking a process to end and ending it


@dataclass
class Trial:
    """A running training. record: the file into which it writes the name of its run folder. log: what it says."""

    command: list[str]
    record: Path
    log: Path
    begin: float = field(default_factory=time.perf_counter)
    process: subprocess.Popen[bytes] | None = None
    judged: int = 0  # epochs after which it has been compared with the others

    def start(self) -> None:
        self.record.unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {RECORD: str(self.record.absolute())}
        with self.log.open("ab") as stream:
            # a session of its own: Ctrl-C reaches the sweep, which ends its trials itself
            self.process = subprocess.Popen(
                self.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begin

    @property
    def folder(self) -> Path | None:
        """Its run folder, once it has named it."""
        return Path(self.record.read_text().strip()) if self.record.is_file() else None

    def is_training(self) -> bool:
        """Whether there are epochs left that stopping it would spare."""
        return "train" not in read_status(self.folder).get("timings", {})

    def stop(self) -> None:
        """Ends the process and those that it started."""
        assert self.process is not None
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def mark_pruned(self, message: str) -> None:
        if self.folder is not None:
            write_json(self.folder / "status.json", read_status(self.folder) | {"state": "pruned", "error": message})

    def complaint(self) -> str:
        """Why it failed: the run folder knows, or else the last of what it said does."""
        status = read_status(self.folder)
        if status.get("state") == "failed" and status.get("error"):
            return str(status["error"])
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("error:")] or lines or ["it said nothing"]
        return f"{told[-1]} (exit status {self.status})"

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            self.process.poll()


def read_status(folder: Path | None) -> dict[str, Any]:
    """status.json of a run folder; empty where there is none."""
    file = folder / "status.json" if folder else None
    return json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}


def read_curve(folder: Path | None, column: str = WATCHED) -> list[float]:
    """A figure's value each epoch, from history.csv; empty where there is none."""
    file = folder / "history.csv" if folder else None
    if file is None or not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [float(row[column]) for row in csv.DictReader(stream) if row.get(column)]


def read_results(folder: Path, objectives: Sequence[Objective]) -> list[float]:
    """The figures that a sweep is after. Errors: UserError for one that the run does not have, with what it has."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    known = _numbers(read_status(folder)) | _numbers(metrics)
    results = []
    for objective in objectives:
        name = objective.name.replace(".", "/")
        value = known.get(name)
        if value is None and (curve := read_curve(folder, objective.name)):
            value = curve[-1]
        if value is None:
            reason = metrics.get("missing", {}).get(name) or f"the run has {', '.join(sorted(known))}"
            raise UserError(f"There is no figure '{objective.name}': {reason}.")
        results.append(float(value))
    return results


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in flat(values).items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
