"""Known noise is silent; other warnings are not."""

import warnings
from pathlib import Path

import pytest

from anomalib_lite.jobs.app import silence

EVAL_MODE = (
    "Found 184 module(s) in eval mode at the start of training. This may lead to unexpected behavior during training."
)


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        (EVAL_MODE, False),
        ("`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)` instead.", False),
        ("Found 3 duplicates at the start of training", True),
        ("the training images' eval mode", True),
    ],
)
def test_these_warnings_alone_are_silent(message: str, heard: bool):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        silence()
        warnings.warn(message, UserWarning, stacklevel=1)
    assert bool(seen) == heard


def test_lightning_and_torch_still_say_it_so():
    """Else the silence is for nothing, and can go."""
    import inspect

    from lightning.pytorch.loops import fit_loop
    from torch.utils import _pytree

    assert "module(s) in eval mode at the start of training" in inspect.getsource(fit_loop)
    assert "`isinstance(treespec, LeafSpec)` is deprecated" in inspect.getsource(_pytree)


def test_a_runs_log_holds_this_projects_words_alone(smoke_run: Path):
    log = (smoke_run / "run.log").read_text()
    assert "report: " in log
    for noise in ("GPU available", "Tip: ", "Trainer.fit", "eval mode"):
        assert noise not in log
