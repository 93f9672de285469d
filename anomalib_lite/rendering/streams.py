"""Named streams of random numbers, so that a change in one part of a picture leaves the others alone."""

from __future__ import annotations

import zlib

import numpy as np

Seed = int | tuple[int, ...]


def stream(seed: Seed, name: str) -> np.random.Generator:
    """A generator that depends on the seed and the name of its purpose alone."""
    words = (seed,) if isinstance(seed, int) else seed
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([*words, zlib.crc32(name.encode())])))


def image_seed(seed: int, *place: str | int) -> tuple[int, ...]:
    """The seed of one image of a set from its place there: for example split, class name and number."""
    return (seed, *(word if isinstance(word, int) else zlib.crc32(word.encode()) for word in place))
