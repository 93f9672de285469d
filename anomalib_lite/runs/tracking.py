"""Experiment tracking with Weights & Biases; without it only the run folder's files record a run."""

import csv
import json
import logging
import netrc
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_lite.runs.folder import UNDEFINING, WHERE, RunFolder
from anomalib_lite.runs.overrides import flat
from anomalib_lite.settings.training import WandB

log = logging.getLogger(__name__)
STATUS_FIGURES = ("ms_per_image", "model_mb", "train_seconds")  # fields of status.json tracked with the metrics
LONGEST_NAME = 120  # characters
CURVE_POINTS = 200
PATIENCE = 5.0  # s to wait for W&B's server before tracking goes offline
# switches off what wandb records by default: host, user, e-mail, command line, paths, git remote, packages, code
OFF: dict[str, Any] = {
    "x_disable_meta": True, "x_disable_machine_info": True, "x_disable_stats": True, "x_save_requirements": False,
    "disable_git": True, "disable_code": True, "save_code": False, "host": "", "console": "off", "silent": True,
}  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """Results of a run to be tracked; metrics as in metrics.json."""

    metrics: Mapping[str, Any]
    pictures: Mapping[str, Sequence[tuple[str, np.ndarray]]] = field(default_factory=dict)  # by heading, with captions
    defects: tuple[list[str], list[list[Any]]] | None = None  # columns and rows of a table
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, str, str]] = field(default_factory=dict)  # x, y, axis labels
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)  # by kind (`model`, `report`)


class Tracker:
    """Base class, which tracks nothing. `logger` is passed to Lightning."""

    logger: Any = False

    def log_result(self, findings: Findings) -> None:
        """Logs results at the end of a run, or of a part of it."""

    def log_history(self, file: Path) -> None:
        """Logs the losses in the history.csv of an earlier training."""


@contextmanager
def tracked(tracking: WandB, run: RunFolder, restart: bool = False) -> Iterator[Tracker]:
    """Yields a run's tracker, which is closed after the block, so that the next job of a sweep starts its own run.

    restart: discards the local files that an earlier start of the run tracked.
    """
    if tracking.kind != "wandb":
        yield Tracker()
        return
    if restart:
        shutil.rmtree(run.path / "wandb", ignore_errors=True)
    tracker, code = WandbTracker(tracking, run), 1
    try:
        yield tracker
        code = 0
    finally:
        tracker.run.finish(exit_code=code)


def track_again(tracking: WandB, run: RunFolder) -> None:
    """Logs a finished run again if a W&B agent started this process, because its sweep waits for the result."""
    if tracking.kind == "wandb" and started_by_agent():
        with tracked(tracking, run) as tracker:
            tracker.log_history(run.path / "history.csv")
            tracker.log_result(Findings(with_status(run.metrics, run.status)))


def with_status(metrics: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    return {**metrics, **{name: status[name] for name in STATUS_FIGURES if name in status}}


class WandbTracker(Tracker):
    """Tracks with one Weights & Biases run, whose files lie in the run folder."""

    def __init__(self, tracking: WandB, run: RunFolder) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would contact its makers even offline
        import wandb  # takes a second, like the next import
        from lightning.pytorch.loggers import WandbLogger

        environment, folder = run.environment, run.path
        # an agent chooses project and id
        chosen: dict[str, Any] = {} if started_by_agent() else {"project": tracking.project, "id": run_id(folder)}
        self.run = wandb.init(
            **chosen,
            name=run_name(folder, environment.get("overrides", ())),
            group=tracking.group,
            dir=str(folder.absolute()),  # wandb's service may have another working directory
            resume="allow",
            settings=wandb.Settings(mode=_mode(tracking), **OFF),
            config=_config(run.config, environment),
        )
        self.folder, self.with_files = folder, tracking.artifacts
        self.run.define_metric("trainer/global_step")
        self.run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self.logger = WandbLogger(experiment=self.run, save_dir=folder)

    def log_history(self, file: Path) -> None:
        if not file.is_file():
            return
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                self.run.log({key: float(value) for key, value in row.items() if value})

    def log_result(self, findings: Findings) -> None:
        import wandb

        figures = flat(findings.metrics).items()
        self.run.summary.update({k: v for k, v in figures if v is not None and not isinstance(v, Mapping)})
        media: dict[str, Any] = {
            heading: [wandb.Image(pixels, caption=caption) for caption, pixels in pictures]
            for heading, pictures in findings.pictures.items()
            if pictures
        }
        for name, (x, y, x_label, y_label) in findings.curves.items():
            shown = range(0, len(x), max(1, len(x) // CURVE_POINTS))
            points = wandb.Table([x_label, y_label], [[float(x[k]), float(y[k])] for k in (*shown, len(x) - 1)])
            media[f"curves/{name}"] = wandb.plot.line(points, x_label, y_label, title=name)
        if findings.defects and findings.defects[1]:
            columns, rows = findings.defects
            media["defects"] = wandb.Table(columns=[*columns], data=rows)
        if media:
            self.run.log(media)
        if self.with_files:
            for kind, files in findings.files.items():
                artifact = wandb.Artifact(f"{kind}-{self.run.id}", kind)
                for file in filter(Path.is_file, files):  # no copy in wandb's cache, which would double a sweep's size
                    name = file.relative_to(self.folder).as_posix()
                    artifact.add_file(str(file.absolute()), name, policy="immutable", skip_cache=True)
                if artifact.manifest.entries:
                    self.run.log_artifact(artifact)


def started_by_agent() -> bool:
    """Whether `wandb agent` started this process, as a trial of a sweep."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def run_id(folder: Path) -> str:
    """Returns experiment name and hash of the run's folder, so that a resumed run keeps its id."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{folder.parent.name}-{folder.name.rpartition('-')[2]}")[-64:]


def run_name(folder: Path, overrides: Sequence[str]) -> str:
    """Returns the overrides that distinguish this run from others; without any, the folder's name."""
    distinguishing = []
    for entry in overrides:
        head, _, tail = entry.lstrip("+~").partition("=")[0].partition(".")
        if head not in (*UNDEFINING, "experiment", "hydra") and not (head == "data" and tail in WHERE):
            distinguishing.append(entry)
    name = " ".join(distinguishing) or folder.name
    return name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"  # what varies is usually last


def _mode(tracking: WandB) -> Any:
    """Returns wandb's mode: by default online if an API key is set and the server answers, else offline."""
    mode = tracking.mode or os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    if mode == "online" and not _reachable(_server()):
        message = "Weights & Biases at %s does not answer: tracking continues offline; upload the run with `make sync`"
        log.warning(message, _server())
        return "offline"
    return mode


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


def _reachable(address: str) -> bool:
    """Whether the server answers within PATIENCE; a thread is needed, as name resolution has no timeout."""
    answered: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(f"{address}/healthz", timeout=PATIENCE)  # noqa: S310 - the user's own address
        except urllib.error.HTTPError:
            pass  # also an answer
        except (OSError, ValueError):
            return
        answered.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return bool(answered)


def has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(_server().split("//")[-1]) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _config(config: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Returns configuration, group choices and environment for W&B, with the user's home folder replaced by ~."""
    recorded: dict[str, Any] = {key: value for key, value in config.items() if key not in ("tracking", "paths")}
    if environment:
        recorded["choices"] = environment.get("choices", {})
        recorded["environment"] = {k: v for k, v in environment.items() if k not in ("choices", "overrides")}
    home = json.dumps(os.path.expanduser("~")).strip('"')
    return json.loads(re.sub(rf'"{re.escape(home)}(?=[/"])', '"~', json.dumps(recorded)))
