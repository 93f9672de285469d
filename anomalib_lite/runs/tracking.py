"""Weights & Biases, or nothing but the run folder's own files."""

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
STATUS_FIGURES = ("ms_per_image", "model_mb", "train_seconds")  # of status.json, tracked beside the metrics
LONGEST_NAME = 120
CURVE_POINTS = 200
PATIENCE = 5.0  # seconds that W&B's server gets to answer at all
# What wandb would take down by itself: host, user, e-mail, command line, paths, git remote, packages, code.
OFF: dict[str, Any] = {
    "x_disable_meta": True, "x_disable_machine_info": True, "x_disable_stats": True, "x_save_requirements": False,
    "disable_git": True, "disable_code": True, "save_code": False, "host": "", "console": "off", "silent": True,
}  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """What a run found, for whoever tracks it.

    metrics: as in metrics.json. pictures: by their heading, caption and uint8 RGB (H, W, 3). defects: columns and rows.
    curves: by name, the points' x and y with the words on their axes. files: by kind (`model`, `report`), what stays
    in the run folder as it is.
    """

    metrics: Mapping[str, Any]
    pictures: Mapping[str, Sequence[tuple[str, np.ndarray]]] = field(default_factory=dict)
    defects: tuple[list[str], list[list[Any]]] | None = None
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, str, str]] = field(default_factory=dict)
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)


class Tracker:
    """Does nothing: the run folder's own files hold everything. `logger` is what Lightning gets."""

    logger: Any = False

    def log_result(self, findings: Findings) -> None:
        """At the end of a run, or of a part of it."""

    def log_history(self, file: Path) -> None:
        """The losses of a training that was done before, by another run: its history.csv."""


@contextmanager
def tracked(tracking: WandB, run: RunFolder, anew: bool = False) -> Iterator[Tracker]:
    """The tracker of a run; it is finished when the block ends, so that the next job of a sweep gets its own run.

    anew: what an earlier start of the run tracked is about to be replaced.
    """
    if tracking.kind != "wandb":
        yield Tracker()
        return
    if anew:
        shutil.rmtree(run.path / "wandb", ignore_errors=True)
    tracker, code = WandbTracker(tracking, run), 1
    try:
        yield tracker
        code = 0
    finally:
        tracker.finish(code)


def track_again(tracking: WandB, run: RunFolder) -> None:
    """Reports a run that was done before, where a W&B agent asked for it: its sweep waits for the result."""
    if tracking.kind == "wandb" and of_agent():
        with tracked(tracking, run) as tracker:
            tracker.log_history(run.path / "history.csv")
            tracker.log_result(Findings(with_status(run.metrics, run.status)))


def with_status(metrics: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    return {**metrics, **{name: status[name] for name in STATUS_FIGURES if name in status}}


class WandbTracker(Tracker):
    """One Weights & Biases run, whose files lie in the run folder."""

    def __init__(self, tracking: WandB, run: RunFolder) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would speak to its makers, offline as well
        import wandb  # a second, as is the next
        from lightning.pytorch.loggers import WandbLogger

        environment, folder = run.environment, run.path
        mine: dict[str, Any] = {"name": run_name(folder, environment.get("overrides", ())), "group": tracking.group}
        if not of_agent():  # which has chosen them
            mine |= {"project": tracking.project, "id": run_id(folder)}
        self.run = wandb.init(
            **mine,
            dir=str(folder.absolute()),  # its service may have another working directory
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
            kept = range(0, len(x), max(1, len(x) // CURVE_POINTS))
            points = wandb.Table([x_label, y_label], [[float(x[k]), float(y[k])] for k in (*kept, len(x) - 1)])
            media[f"curves/{name}"] = wandb.plot.line(points, x_label, y_label, title=name)
        if findings.defects and findings.defects[1]:
            columns, rows = findings.defects
            media["defects"] = wandb.Table(columns=[*columns], data=rows)
        if media:
            self.run.log(media)
        if self.with_files:
            for kind, files in findings.files.items():
                artifact = wandb.Artifact(f"{kind}-{self.run.id}", kind)
                for file in filter(Path.is_file, files):  # read where it lies: a copy would double a sweep's size
                    name = file.relative_to(self.folder).as_posix()
                    artifact.add_file(str(file.absolute()), name, policy="immutable", skip_cache=True)
                if artifact.manifest.entries:
                    self.run.log_artifact(artifact)

    def finish(self, code: int) -> None:
        self.run.finish(exit_code=code)


def of_agent() -> bool:
    """Whether `wandb agent` started this process, as a trial of a sweep."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def run_id(folder: Path) -> str:
    """The same for a run that is resumed: the experiment and the hash at the end of the folder's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{folder.parent.name}-{folder.name.rpartition('-')[2]}")[-64:]


def run_name(folder: Path, overrides: Sequence[str]) -> str:
    """The overrides that tell this run from others; the folder's name where there are none."""
    telling = []
    for given in overrides:
        head, _, tail = given.lstrip("+~").partition("=")[0].partition(".")
        if head not in (*UNDEFINING, "experiment", "hydra") and not (head == "data" and tail in WHERE):
            telling.append(given)
    name = " ".join(telling) or folder.name
    return name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"  # what varies is mostly said last


def _mode(tracking: WandB) -> Any:  # one of wandb's own words
    """Online where a key is set and the server answers; nobody waits for one that does not."""
    mode = tracking.mode or os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    if mode == "online" and not _reachable(_server()):
        told = "Weights & Biases at %s does not answer: tracking goes on offline; `make sync` uploads the run later"
        log.warning(told, _server())
        return "offline"
    return mode


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


def _reachable(address: str) -> bool:
    """Whether anything answers there within PATIENCE; looking up a name knows no time limit of its own."""
    answered: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(f"{address}/healthz", timeout=PATIENCE)  # noqa: S310 - the user's own address
        except urllib.error.HTTPError:
            pass  # an answer, too
        except (OSError, ValueError):
            return
        answered.append(True)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return bool(answered)


def has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = _server().split("//")[-1]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _config(config: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved configuration, the choices of its groups and the environment record, without the user's home."""
    told: dict[str, Any] = {key: value for key, value in config.items() if key not in ("tracking", "paths")}
    if environment:
        choices = environment.get("choices", {})
        told["choices"] = {k: v for k, v in choices.items() if not k.startswith("hydra")}
        told["environment"] = {k: v for k, v in environment.items() if k not in ("choices", "overrides")}
    home = json.dumps(os.path.expanduser("~")).strip('"')
    return json.loads(re.sub(rf'"{re.escape(home)}(?=[/"])', '"~', json.dumps(told)))
