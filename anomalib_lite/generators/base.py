"""What every generator is: OK images in, new OK images out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_lite.data.sample import Origin


@dataclass(frozen=True)
class Generated:
    """image: uint8 (H, W, 3) RGB. content: place among the OK images of the one whose structure it is meant to keep.
    origin: `generated`, or `template_generated` where its look comes from the template.
    """

    image: np.ndarray
    content: int
    origin: Origin


class Generator(ABC):
    """Trained once for each data set, template and configuration; `fit` and `load` meet in a folder.

    after_training: options that `fit` does not depend on; they may change without a new training.
    """

    after_training: tuple[str, ...] = ()

    @abstractmethod
    def fit(self, ok: Sequence[Path], template: Path | None, folder: Path, seed: int, logger: Any = None) -> None:
        """Trains on OK images (the template's colours are already those of the OK images) and leaves in `folder` all
        that `load` needs, tensors as safetensors. A folder that a killed training left behind is gone on from.

        logger: Lightning loggers, or None.
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Reads what `fit` left."""

    @abstractmethod
    def sample(self, n: int, seed: int, ok: Sequence[Path]) -> Iterator[Generated]:
        """n new images; the same seed gives the same ones, and the first m of n are those of sample(m).

        ok: the images of `fit` in their order, wherever they lie by now.
        """
