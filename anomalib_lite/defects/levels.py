"""What anomaly maps look like on good images, so that a defect's bounds need no look at test images."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class MapLevels:
    """base: the map's usual value on held-out OK images. low: a pixel of a defect is above it; exceeded on 1 % of an OK
    image's pixels.
    """

    base: float = 0.0
    low: float = 0.0

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


class LevelsOfMaps:
    """Adds up over the maps of held-out OK images; keeps two numbers an image."""

    def __init__(self) -> None:
        self._base: list[float] = []
        self._low: list[float] = []

    def update(self, maps: np.ndarray) -> None:
        """maps: (B, 1, H, W) or (B, H, W)."""
        for values in np.asarray(maps).reshape(-1, *np.shape(maps)[-2:]):
            base, low = np.quantile(values[::2, ::2], (0.5, 0.99))
            self._base.append(float(base))
            self._low.append(float(low))

    def compute(self) -> MapLevels:
        """The median over the images, so that one with dust on it does not count; zeros without any."""
        return MapLevels(float(np.median(self._base)), float(np.median(self._low))) if self._base else MapLevels()
