"""Features, maps and losses are those of anomalib 2.7 with the same weights; benchmarks/parity.py froze its numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.parity import BOUND, OURS, ours, some_of

THEIRS = json.loads(Path(__file__).with_name("parity.json").read_text())


@pytest.mark.parametrize("name", OURS)
def test_the_numbers_are_those_of_anomalib(name: str):
    for what, value in ours(name)[1].items():
        wanted = THEIRS[f"{name} {what}"]
        np.testing.assert_allclose(some_of(value), wanted, rtol=0, atol=BOUND * np.abs(wanted).max(), err_msg=what)
