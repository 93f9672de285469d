"""Seeds for torch out of larger numbers, or several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def torch_seed(entropy: int | Sequence[int]) -> int:
    """torch reads 32 bits of a seed: numbers beyond that, or beside each other, are mixed, not shifted together."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
