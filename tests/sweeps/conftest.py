import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from anomalib_lite.sweeps.spec import Sweep, read_sweep

FAKE = Path(__file__).with_name("fake.py")
COMMAND = ["${env}", "anomalib-lite", "train", "${args_json}"]


def fake_training(overrides: Sequence[str]) -> list[str]:
    return [sys.executable, "-S", str(FAKE), *overrides]


Write = Callable[..., Sweep]


@pytest.fixture
def sweep_of(tmp_path: Path) -> Write:
    """A sweep from the entries of its file: method, parameters, ... with a metric and a command unless given."""

    def write(**entries: Any) -> Sweep:
        content = {"method": "grid", "metric": {"name": "figure", "goal": "minimize"}, "command": COMMAND} | entries
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return read_sweep(path)

    return write
