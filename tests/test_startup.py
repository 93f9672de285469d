"""What a person waits for: nothing is imported before it is needed, and the real libraries are found when it is."""

import subprocess
import sys
from pathlib import Path

import pytest

from anomalib_lite import cli
from tests.commands import one_thread

HEAVY = (
    "torch", "torchvision", "lightning", "timm", "kornia", "scipy", "sklearn", "skimage", "pandas", "matplotlib",
    "wandb", "safetensors", "jinja2", "optuna",
)  # fmt: skip
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


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    settings = one_thread(ANOMALIB_LITE_MALLOC="0")
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=settings, capture_output=True, text=True)


def test_help_waits_for_no_heavy_library(tmp_path):
    """Nor does a wrong option, which Hydra refuses before the verb begins."""
    code = (
        "import contextlib, sys; from anomalib_lite import cli\n"
        "for verb in cli.VERBS:\n"
        "    sys.argv = ['', verb, '--help']\n"
        "    with contextlib.suppress(SystemExit): cli.main()\n"
        f"    print(verb, *(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = python(code, tmp_path)
    assert done.returncode == 0 and done.stdout.count("== Configuration") == len(cli.VERBS)
    assert done.stderr.split() == list(cli.VERBS)


def test_a_training_names_its_data_and_its_folder_before_it_loads_the_networks_libraries(tiny, tmp_path):
    """Here they cannot be loaded at all."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r})); sys.argv = ['', 'train', *{tiny!r}]\n"
        "from anomalib_lite import cli; cli.main()"
    )
    done = python(code, tmp_path)
    assert done.returncode == 1 and "halted; None in sys.modules" in done.stderr
    assert "runs/default/mvtec_ad-stripes-stfpm-efficientnet_lite0-s0-" in done.stderr


REST = "import {}, anomalib_lite.libraries, torchmetrics, matplotlib.axes, matplotlib.pyplot as plt; plt.Figure"
FIRST = ("matplotlib.font_manager", "scipy.stats", "pandas", "torch._dynamo")


@pytest.mark.parametrize("code", [CODE, *map(REST.format, FIRST)], ids=["none", *FIRST])
def test_what_nobody_asked_for_is_not_loaded_and_whole_when_it_is_whatever_was_imported_before(code, tmp_path):
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
