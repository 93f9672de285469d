"""Made-up experiments: as a table in memory, or as run folders on disk."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from anomalib_lite.comparison.runs import Run
from anomalib_lite.comparison.study import View, views
from anomalib_lite.comparison.table import RunTable
from anomalib_lite.runs.atomic import write_json, write_text

CONFIG: dict[str, Any] = {
    "data": {"_target_": "anomalib_lite.data.layouts.mtd", "root": "/data/mtd", "val_share": 0.2},
    "detector": {"_target_": "anomalib_lite.detectors.stfpm.STFPM", "epochs": 5},
    "augment": {"horizontal": 0.0, "seed": "${seed}"},
    "paths": {"runs": "runs", "artifacts": "artifacts"},
    "tracking": {"kind": "none"},
    "seed": 0, "image_size": 256, "experiment_name": "made",
}  # fmt: skip
CHOICES = {"data": "mtd", "detector": "stfpm", "augment": "none"}
Value = Callable[..., float]


def make_table(factors: Mapping[str, Sequence[str]], blocks: Sequence[str], seeds: int, value: Value) -> RunTable:
    """value(block, seed, *levels) is the metric `aupro`."""
    rows = [
        {"run": f"run{i}", "data": block} | dict(zip(factors, chosen, strict=True)) | {"seed": seed}
        | {"aupro": value(block, seed, *chosen), "ms_per_image": 10.0 + i % 7, "model_mb": 5.0, "commit": ""}
        for i, (block, *chosen, seed) in enumerate(product(blocks, *factors.values(), range(seeds)))
    ]  # fmt: skip
    runs = [Run(Path(row["run"]), row["run"], "done", choices={"data": row["data"]}, overrides=[]) for row in rows]
    return RunTable(pd.DataFrame(rows), list(factors), runs)


def without(table: RunTable, dropped: pd.Series) -> RunTable:
    """The table less some rows, and their runs."""
    runs = [run for run, gone in zip(table.runs, dropped, strict=True) if not gone]
    return RunTable(table.rows[~dropped].reset_index(drop=True), table.factors, runs)


def make_view(table: RunTable) -> View:
    """All data together."""
    return views(table, "aupro")[0]


def write_run(
    place: Path,
    name: str,
    values: Mapping[str, float | None] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    choices: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    state: str = "done",
    fingerprint: str = "0" * 64,
    **status: Any,
) -> Path:
    """A run's folder. config: dotted names and values on top of CONFIG. choices: {} for a run that recorded none."""
    folder, whole = place / name, OmegaConf.create(CONFIG)
    for key, value in (config or {}).items():
        OmegaConf.update(whole, key, value, merge=False, force_add=True)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(whole, resolve=True))
    recorded = {} if choices == {} else {"choices": {**CHOICES, **(choices or {})}, "overrides": list(overrides)}
    environment = {"seed": whole.seed, "data_fingerprint": fingerprint, "cpu": "a", "gpu": None}
    write_json(folder / "environment.json", environment | recorded)
    write_json(folder / "status.json", {"state": state, "finished": "2026-01-01", "model_mb": 9.0, **status})
    if values is not None:
        write_json(folder / "metrics.json", {"per_defect": {}, "missing": {}, **values})
    return folder
