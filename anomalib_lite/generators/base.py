"""The interface of all generators, and the drawing of images until enough of them have an intact structure."""

import contextlib
import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from anomalib_lite.data.decode import read_sample, resize_image, shrunk
from anomalib_lite.data.sample import Origin, Sample
from anomalib_lite.errors import UserError
from anomalib_lite.generators.structure import MOST_IMAGES, StructureGuard, edge_overlap, fit_guard, luminance_ssim

if TYPE_CHECKING:
    import pandas as pd


class Generated(NamedTuple):
    """A generated image."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    content: int  # index of the OK image whose structure it should keep
    origin: Origin  # `generated`, or `template_generated` if its look comes from the template


class Generator(ABC):
    """A generator, trained once for each data set, template and configuration."""

    after_training: tuple[str, ...] = ()  # options that `fit` does not depend on: they need no new training

    @abstractmethod
    def fit(self, ok: Sequence[Sample], template: Sample | None, folder: Path, seed: int, logger: Any = None) -> None:
        """Trains on OK images, or resumes a training, and writes all that `load` needs, tensors as safetensors.

        The template's colours are already matched to the OK images. logger: list of Lightning loggers, or None.
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Loads the files written by `fit`."""

    @abstractmethod
    def sample(self, n: int, seed: int, ok: Sequence[Sample]) -> Iterator[Generated]:
        """Yields n new images, reproducible by the seed; the first m of them equal those of sample(m).

        ok: the images passed to `fit`, in the same order; they may have moved.
        """


def device_for(accelerator: str) -> str:
    """Returns the device to draw images on: a GPU if Lightning would train on one, else the CPU."""
    return "cuda" if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available() else "cpu"


class Progress(TQDMProgressBar):
    """Lightning's progress bar on stderr, as stdout is for results."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)
        if not sys.stderr.isatty():  # a file would get every state of the bar
            self.disable()

    def init_train_tqdm(self) -> Any:
        with contextlib.redirect_stdout(sys.stderr):
            return super().init_train_tqdm()

    def init_validation_tqdm(self) -> Any:
        with contextlib.redirect_stdout(sys.stderr):
            return super().init_validation_tqdm()


MOST_DRAWS = 4  # draws per requested image, at most
COMPARED_SIDE = 256  # px: larger images are reduced to this side for comparison


class Candidate(NamedTuple):
    """A drawn image, its edge overlap and SSIM with its content image, and whether it is kept."""

    made: Generated
    overlap: float
    ssim: float
    kept: bool


class Drawing:
    """Draws images, kept or not, until `count` are kept or `MOST_DRAWS` times as many are drawn.

    ok: the images that the generator was trained on. quantile: of the structure guard, see `fit_guard`, which is fitted
    at the generated images' size; None keeps every image. size: (height, width) of the comparison.
    """

    def __init__(
        self, generator: Generator, count: int, seed: int, ok: Sequence[Sample], quantile: float | None = None
    ) -> None:
        stream = generator.sample(count if quantile is None else MOST_DRAWS * count, seed, ok)
        first = next(stream, None)
        if first is None:
            raise UserError(f"{type(generator).__name__} gives no image: correct its method `sample`.")
        self.count, self.ok, self.stream = count, ok, chain([first], stream)
        self.size = shrunk(first.image.shape, COMPARED_SIDE)
        self.guard: StructureGuard | None = None
        if quantile is not None:
            chosen = np.random.default_rng(seed).permutation(len(ok))[:MOST_IMAGES]
            self.guard = fit_guard([resize_image(read_sample(ok[i]), *self.size) for i in chosen], quantile, seed)

    def __iter__(self) -> Iterator[Candidate]:
        content_at = lru_cache(maxsize=64)(lambda index, size: resize_image(read_sample(self.ok[index]), *size))
        kept = 0
        for made in self.stream:
            if not 0 <= made.content < len(self.ok):
                raise ValueError(f"a generated image names OK image {made.content} as its content, of {len(self.ok)}")
            size = shrunk(made.image.shape, COMPARED_SIDE)
            image, content = resize_image(made.image, *size), content_at(made.content, size)
            overlap = edge_overlap(image, content)
            keep = self.guard is None or self.guard.keeps(overlap)
            yield Candidate(made, overlap, luminance_ssim(image, content), keep)
            kept += keep
            if kept == self.count:
                return


class LossLog(Logger):
    """A Lightning logger that appends to `path`, so that a resumed training continues the same file."""

    name = "losses"
    version = ""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Does nothing: the configuration holds the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        finite = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **finite}) + "\n")


def read_losses(path: Path) -> "pd.DataFrame":
    """Reads losses as columns step, name and value, in order; skips a line left incomplete by a crash."""
    import pandas as pd  # takes 0.2 s and 90 MB

    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            values = json.loads(line)
            step = values.pop("step")
            rows += [(step, name, value) for name, value in values.items() if value is not None]
    return pd.DataFrame(rows, columns=["step", "name", "value"])
