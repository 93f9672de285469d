"""The losses of a training as lines of a file, whatever tracks them besides."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class LossLog(Logger):
    """A Lightning logger that appends to `path`, so that a training which was killed goes on in the same file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        return "losses"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Stand in the configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        with self.path.open("a", encoding="utf-8") as stream:
            finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
            stream.write(json.dumps({"step": step, **finite}) + "\n")


def read_losses(path: Path) -> pd.DataFrame:
    """Columns step, name, value, in the order they were written; a line that a kill has torn is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        step = values.pop("step")
        rows += [(step, name, value) for name, value in values.items() if value is not None]
    return pd.DataFrame(rows, columns=["step", "name", "value"])
