"""A run in Weights & Biases: one for each run folder, and nothing in it that is nobody's business."""

from __future__ import annotations

import csv
import json
import netrc
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.runs.flat import flat
from anomalib_lite.runs.folder import UNDEFINING, WHERE
from anomalib_lite.runs.tracking import Findings, Tracker

LONGEST_NAME = 120
CURVE_POINTS = 200
OFF = {  # what wandb would take down by itself: host, user, e-mail, command line, paths, git remote, packages, code
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "host": "",
    "console": "off",
    "silent": True,
}


class WandbTracker(Tracker):
    """One Weights & Biases run, whose files lie in the run folder."""

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would speak to its makers, offline as well
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        if cfg.get("force"):
            shutil.rmtree(folder / "wandb", ignore_errors=True)  # of a result that is about to be replaced
        mode = cfg.tracking.mode or os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        mine: dict[str, Any] = {"name": run_name(folder), "group": cfg.tracking.group}
        if not of_agent():  # which has chosen them
            mine |= {"project": cfg.tracking.project, "id": run_id(folder)}
        self.run = wandb.init(
            **mine,
            dir=str(folder.absolute()),  # its service may have another working directory
            resume="allow",
            settings=wandb.Settings(mode=mode, **OFF),
            config=_config(cfg, folder),
        )
        self.folder, self.with_files = folder, bool(cfg.tracking.get("artifacts", True))
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

        self.run.summary.update(known(findings.metrics))
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
            media["defects"] = wandb.Table(columns=columns, data=rows)
        if media:
            self.run.log(media)
        if self.with_files:
            for kind, files in findings.files.items():
                self._keep(kind, files)

    def finish(self, code: int) -> None:
        self.run.finish(exit_code=code)

    def _keep(self, kind: str, files: Sequence[Path]) -> None:
        """Files are read where they lie: a copy would double a sweep's size, in a folder outside of the run's."""
        import wandb

        artifact = wandb.Artifact(f"{kind}-{self.run.id}", kind)
        for file in files:
            if file.is_file():
                artifact.add_file(
                    str(file.absolute()), file.relative_to(self.folder).as_posix(), policy="immutable", skip_cache=True
                )
        if artifact.manifest.entries:
            self.run.log_artifact(artifact)


def of_agent() -> bool:
    """Whether `wandb agent` started this process, as a trial of a sweep."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def run_id(folder: Path) -> str:
    """The same for a run that is resumed: the experiment and the hash at the end of the folder's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{folder.parent.name}-{folder.name.rpartition('-')[2]}")[-64:]


def run_name(folder: Path) -> str:
    """The overrides that tell this run from others; the folder's name where there are none."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    telling = [o for o in overrides if _tells(o.lstrip("+~").partition("=")[0])]
    name = " ".join(telling) or folder.name
    return name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"  # what varies is mostly said last


def _tells(key: str) -> bool:
    head, _, tail = key.partition(".")
    return head not in (*UNDEFINING, "experiment", "hydra") and not (head == "data" and tail in WHERE)


def has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].rstrip("/")
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def known(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Nested metrics under names with slashes; what is None is left out."""
    return {k: v for k, v in flat(metrics).items() if v is not None and not isinstance(v, Mapping)}


def _config(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """The resolved configuration, the choices of its groups and the environment record, without the user's home."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for key in ("tracking", "paths"):
        config.pop(key, None)
    if HydraConfig.initialized():
        choices = HydraConfig.get().runtime.choices
        config["choices"] = {k: v for k, v in choices.items() if not k.startswith("hydra") and "@" not in k}
    record = folder / "environment.json"
    if record.is_file():
        values = json.loads(record.read_text(encoding="utf-8"))
        config["environment"] = {k: v for k, v in values.items() if k not in ("choices", "overrides")}
    return _homeless(config)


def _homeless(value: Any) -> Any:
    home = os.path.expanduser("~")
    if isinstance(value, dict):
        return {key: _homeless(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_homeless(v) for v in value]
    if isinstance(value, str) and (value == home or value.startswith(f"{home}/")):
        return f"~{value[len(home) :]}"
    return value
