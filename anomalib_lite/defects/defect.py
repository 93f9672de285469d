"""One defect, and all that was found on one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Defect:
    """mask: bool (H, W) at the resolution of inspection; box: x, y, width, height in its px. peak, mean: of the map.
    kind: name of the type, with the confidence in (0, 1] that a rule has in it. areas: share of the defect in each.
    measures: by the names of `measures.UNITS`, None where one could not be taken. severity in [0, 1], and its grade.
    """

    mask: np.ndarray
    box: tuple[int, int, int, int]
    peak: float
    mean: float
    kind: str
    confidence: float
    areas: Mapping[str, float]
    measures: Mapping[str, float | int | None]
    severity: float
    grade: str

    def record(self) -> dict[str, Any]:
        """JSON-ready, without the mask; measures that were not taken are left out."""
        return {
            "type": self.kind,
            "confidence": round(self.confidence, 4),
            "severity": round(self.severity, 4),
            "grade": self.grade,
            "box": list(self.box),
            "peak": _short(self.peak),
            "mean": _short(self.mean),
            "areas": {name: round(share, 4) for name, share in self.areas.items() if share > 0},
            "measures": {name: _short(value) for name, value in self.measures.items() if value is not None},
        }


@dataclass(frozen=True)
class Inspection:
    """An image's defects, the worst first, and the verdict on the product."""

    defects: tuple[Defect, ...]
    accepted: bool

    @property
    def worst(self) -> Defect | None:
        return self.defects[0] if self.defects else None


def _short(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")
