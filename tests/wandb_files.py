"""Weights & Biases runs that were logged offline, read back with wandb's own tool."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCRIPT = "from wandb.cli.cli import cli; cli()"


@dataclass
class OfflineRun:
    """One file of one run; a run that was interrupted and resumed has several, of one id.

    config, summary: as the server would have them after the upload; nested keys stay nested in `config`. history: one
    row for each call of `log`. artifacts: by type, the names of the files within. exit_code: None where the process
    was killed.
    """

    file: Path
    id: str = ""
    name: str = ""
    group: str = ""
    project: str = ""
    resume: bool = False
    host: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def logged(self) -> set[str]:
        """The keys of numbers, images and tables; those have parts behind a dot in the file."""
        return {key.partition(".")[0] for row in self.history for key in row}

    def curve(self, key: str) -> list[float]:
        return [row[key] for row in self.history if key in row]


def offline_runs(folder: Path) -> list[OfflineRun]:
    """All that lie below a folder, in the order of their files' names: `offline_runs(tmp_path / "runs")`."""
    files = sorted(p for p in folder.rglob("*.wandb") if p.parent.name.startswith("offline-run-"))
    return [read_offline(file) for file in files]


def read_offline(file: Path) -> OfflineRun:
    run = OfflineRun(file)
    for record in records(file):
        content = record.get(record["type"], {})
        match record["type"]:
            case "run":
                _begin(run, content)
            case "config":
                run.config |= content.get("update", {})
            case "summary":
                run.summary |= content.get("update", {})
            case "history":
                run.history.append(content["item"])
            case "artifact":
                names = [entry["path"] for entry in content["manifest"]["contents"]]
                run.artifacts.setdefault(content["type"], []).extend(names)
            case "exit":
                run.exit_code = content.get("exit_code", 0)
    return run


def records(file: Path) -> Iterator[dict[str, Any]]:
    """What `wandb leet inspect --json FILE` prints."""
    command = [sys.executable, "-c", SCRIPT, "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (json.loads(line) for line in done.stdout.splitlines())


def _begin(run: OfflineRun, content: dict[str, Any]) -> None:
    run.id, run.name, run.group = content["run_id"], content.get("display_name", ""), content.get("run_group", "")
    run.project, run.resume, run.host = content["project"], content.get("resume", False), content.get("host")
    run.config |= content.get("config", {}).get("update", {})
