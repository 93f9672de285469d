"""Commands load torch's compiler and scipy.signal when they need them, and find the real ones then."""

import subprocess
import sys

import pytest

from tests.commands import one_thread

CODE = """
import sys, anomalib_lite.engine.fit, torch
from anomalib_lite.detectors.learned import Networks
Networks({"fine": 1}).learn(0, torch.rand(9, 3), torch.arange(9) % 2, 0)
late = {"torch._dynamo", "torch._inductor", "triton", "scipy.signal", "pandas", "wandb", "matplotlib"}
assert late.isdisjoint(sys.modules), late & set(sys.modules)
import lightning
from lightning.pytorch.utilities.model_summary import ModelSummary
from torch.utils.flop_counter import FlopCounterMode
assert isinstance(ModelSummary(lightning.LightningModule())._flop_counter, FlopCounterMode)
import torch, scipy.signal, lightning.fabric.wrappers, wandb, torch._dynamo
assert torch._dynamo.__file__ and scipy.signal.windows.hamming(5)[2] == 1 and wandb.__file__
compiled = torch.compile(torch.nn.Identity(), backend="eager")
import matplotlib.pyplot, torchmetrics.utilities.plot
assert matplotlib.pyplot.subplots and torchmetrics.utilities.plot.plt.subplots is matplotlib.pyplot.subplots
known = lightning.fabric.wrappers.OptimizedModule
assert isinstance(compiled, known) and not isinstance(torch.nn.Identity(), known) and compiled(torch.ones(1)) == 1
"""


def test_what_nobody_asked_for_is_not_loaded_and_whole_when_it_is(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, env=one_thread(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("first", ["matplotlib", "matplotlib.font_manager", "scipy.stats", "pandas", "torch._dynamo"])
def test_whatever_was_imported_before(first):
    lines = (
        f"import {first}, anomalib_lite.libraries, torchmetrics, matplotlib.axes, matplotlib.pyplot as plt; plt.Figure"
    )
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, env=one_thread())
    assert done.returncode == 0, done.stderr
