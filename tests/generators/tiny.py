"""Generators that need no training, to test what is around them."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from anomalib_lite.data.decode import read_sample
from anomalib_lite.data.sample import Sample
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Generated, Generator

TRAININGS = "TINY_GENERATOR_TRAININGS"  # environment variable: a file that gets a line for each training


class Recolour(Generator):
    """OK images in other colours; every `damage`-th one has its parts shuffled, or all but the `-damage`-th.

    patience: seconds of the training. fail_at: step at which the training ends with an error, once.
    """

    after_training = ("strength", "damage")

    def __init__(self, strength=0.2, damage=0, patience=0.0, fail_at=None, look=0, start_from=None) -> None:
        self.strength, self.damage, self.patience, self.fail_at, self.look = strength, damage, patience, fail_at, look

    def fit(self, ok, template, folder, seed, logger=None) -> None:
        if record := os.environ.get(TRAININGS):
            with open(record, "a") as stream:
                stream.write(f"{os.getpid()} {len(ok)} {template.image.name if template else '-'} {seed}\n")
        time.sleep(self.patience)
        begin = len(list(folder.glob("step*")))
        for step in range(begin, 3):
            if step == self.fail_at and begin == 0:
                raise RuntimeError("killed")
            (folder / f"step{step}").touch()
            for one in logger or []:
                one.log_metrics({"loss": 1 / (step + 1)}, step=step)
        (folder / "notes.json").write_text(json.dumps({"template": template is not None}))

    def load(self, folder: Path) -> None:
        self.template = json.loads((folder / "notes.json").read_text())["template"]

    def sample(self, n: int, seed: int, ok: Sequence[Sample]) -> Iterator[Generated]:
        for place in range(n):
            rng = np.random.default_rng([seed, place])
            content = int(rng.integers(len(ok)))
            image = recoloured(read_sample(ok[content]), rng, self.strength)
            if self.damage and (place % self.damage == 0) == (self.damage > 0):
                image = shuffled(image, rng)
            yield Generated(image, content, "template_generated" if self.template and place % 2 else "generated")


class Silent(Recolour):
    """Makes nothing."""

    def sample(self, n: int, seed: int, ok: Sequence[Sample]) -> Iterator[Generated]:
        yield from ()


class Stranger(Recolour):
    """Takes its structure from an image that it was not given."""

    def sample(self, n: int, seed: int, ok: Sequence[Sample]) -> Iterator[Generated]:
        for made in super().sample(n, seed, ok):
            yield Generated(made.image, len(ok), made.origin)


class Refusing(Recolour):
    def fit(self, ok, template, folder, seed, logger=None) -> None:
        raise UserError("not with these images")


def recoloured(image: np.ndarray, rng: np.random.Generator, strength: float = 0.2) -> np.ndarray:
    gain, shift = rng.uniform(1 - strength, 1 + strength, 3), rng.uniform(-60, 60) * strength
    return np.clip(image * gain + shift, 0, 255).astype(np.uint8)


def shuffled(image: np.ndarray, rng: np.random.Generator, n: int = 4) -> np.ndarray:
    """n x n parts in another order."""
    height, width = (size // n for size in image.shape[:2])
    parts = (
        image[: n * height, : n * width].reshape(n, height, n, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    )
    shuffled = parts[rng.permutation(n * n)].reshape(n, n, height, width, 3)
    return shuffled.swapaxes(1, 2).reshape(n * height, n * width, 3)
