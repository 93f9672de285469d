"""A run's folder as its page reads it; goes when `runs.folder` reads all of it."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)


class RunFolder:
    """What is missing or torn reads as empty."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status, self.environment, self.metrics = (
            self._json(f"{name}.json") for name in ("status", "environment", "metrics")
        )
        threshold = self._json("threshold.json") or self.metrics.get("threshold")
        self.threshold: dict[str, Any] = threshold if isinstance(threshold, dict) else {}

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder. Give the run's folder, which holds config.yaml.")
        return cls(folder)

    def predictions(self) -> list[dict[str, Any]]:
        path = self.path / "predictions.csv"
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                return [_typed(row) for row in csv.DictReader(stream)]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, csv.Error):
            log.warning("%s is torn: read as empty", path)
            return []

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            log.warning("%s is torn: read as empty", self.path / name)
            return {}
        return value if isinstance(value, dict) else {}


def _typed(row: dict[str, str]) -> dict[str, Any]:
    label, score = (row.get("label") or "").strip(), float(row["score"] or "nan")
    return {
        "image": row.get("image") or "",
        "label": int(float(label)) if label else None,
        "defect": row.get("defect") or None,
        "score": score,
        "nok": row["nok"].strip().lower() in ("1", "true", "yes", "1.0"),
    }
