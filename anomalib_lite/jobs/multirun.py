"""Records the jobs of a multirun, wherever a launcher runs them, and lists those that failed."""

import json
import os
import secrets
import shlex
import shutil
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.errors import UserError
from anomalib_lite.runs.artifacts import artifact_key
from anomalib_lite.runs.atomic import write_json

NOT_ENDED = "did not finish: its process was killed, or could not be started"
# option of hydra/launcher -> (module of the plugin, extra that installs it)
LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", "joblib"),
    "submitit_local": ("hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_submitit_launcher", "slurm"),
    "ray": ("hydra_ray_launcher", "ray"),
    "ray_cluster": ("hydra_ray_launcher", "ray"),
}
_folder: Path | None = None  # folder of the multirun that this process started


class Begin(Callback):
    """Hydra's callback before the first job: stores the multirun's folder, and removes records of dead processes."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _folder
        _folder = Path(config.hydra.sweep.dir)
        for records in _folder.glob(f"{_records('*', '*')}"):
            if not _alive(records):
                shutil.rmtree(records, ignore_errors=True)


def begin(verb: str, arguments: Sequence[str]) -> str:
    """Registers the names of the multirun's folder and of the subfolder for its jobs' records; returns the latter.

    The folder's name is a hash of the jobs, so the same multirun uses the same folder again, and different ones that
    start within the same second do not collide. The subfolder's name is unique to this start. Raises UserError, with
    the package to install, if the chosen launcher is missing.
    """
    global _folder
    _folder = None
    for option in (argument.partition("=")[2] for argument in arguments if argument.startswith("hydra/launcher=")):
        module, extra = LAUNCHERS.get(option, ("", ""))
        if module and not (find_spec("hydra_plugins") and find_spec(f"hydra_plugins.{module}")):
            raise UserError(f"hydra/launcher={option} needs: pip install 'anomalib-lite[{extra}]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    jobs = sorted(a for a in arguments if not a.startswith(("hydra/launcher", "hydra.launcher")))
    name, home = artifact_key(verb, jobs)[:10], Path.cwd()
    records = _records(str(os.getpid()), secrets.token_hex(4))
    # closures, because launchers pickle them with their values for their processes
    OmegaConf.register_new_resolver(
        "anomalib_lite.sweep", lambda runs: str(home / os.path.expanduser(runs) / "multirun" / name), replace=True
    )
    OmegaConf.register_new_resolver("anomalib_lite.records", lambda: records, replace=True)
    return records


def record(verb: str, state: str, error: str | None = None) -> None:
    """Records the state of the current job of a multirun: running, done or failed."""
    hydra = HydraConfig.get()
    text = f"anomalib-lite {verb} {shlex.join(hydra.overrides.task)}"
    entry = {"state": state, "command": text, "error": error, "host": socket.gethostname()}
    write_json(Path(hydra.runtime.output_dir) / f"{hydra.job.num}.json", entry)


def records_of(start: str) -> list[dict[str, Any]]:
    """Collects the records of this process's multirun in the jobs' order, and saves them as jobs.json in its folder."""
    if _folder is None:
        return []
    files = sorted((_folder / start).glob("*.json"), key=lambda path: int(path.stem))
    records = [json.loads(path.read_text()) for path in files]
    for entry in records:
        if entry["state"] == "running":
            entry |= {"state": "failed", "error": NOT_ENDED}
    if records:
        write_json(_folder / "jobs.json", records)
    shutil.rmtree(_folder / start, ignore_errors=True)
    return records


def failure_summary(records: Sequence[dict[str, Any]]) -> str | None:
    """Lists each failed job with the command that runs only this job, and its message; None if none failed."""
    failed = [entry for entry in records if entry["state"] == "failed"]
    if not failed:
        return None
    lines = [f"{len(failed)} of {len(records)} jobs of the sweep failed:"]
    for entry in failed:
        lines += [f"  {entry['command']}", *(f"      {line}" for line in entry["error"].splitlines())]
    return "\n".join([*lines, "Run the same command again to repeat the failed jobs; finished jobs are skipped."])


def _records(process: str, token: str) -> str:
    return f".jobs-{socket.gethostname()}-{process}-{token}"


def _alive(records: Path) -> bool:
    process = int(records.name.split("-")[-2])
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
