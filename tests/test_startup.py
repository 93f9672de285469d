"""What a person waits for: nothing is imported before it is needed, since the networks' libraries take seconds."""

import subprocess
import sys
from pathlib import Path

from anomalib_lite import cli
from tests.commands import one_thread

HEAVY = (
    "torch", "torchvision", "lightning", "timm", "kornia", "scipy", "sklearn", "skimage", "pandas", "matplotlib",
    "wandb", "safetensors", "jinja2", "optuna",
)  # fmt: skip


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
