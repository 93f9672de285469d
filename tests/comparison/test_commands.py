"""Commands that a shell and Hydra read back as what was meant."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from anomalib_lite.comparison.commands import command, hydra_value
from anomalib_lite.comparison.record import Run

ODD = [
    None, True, 0.1, 3, "plain", "with space", "a=b", "it's", "x, y", "[no list]", "null", "1e3", "", "back\\slash",
    "ends\\", 'say "so"', "~/x", "a:b", [1, "two words", None], {"k": [1.5, "a=b"]}, "umläut",
]  # fmt: skip


@pytest.mark.parametrize("value", ODD)
def test_values_arrive_intact(value: Any):
    assert OverridesParser.create().parse_override(f"key={hydra_value(value)}").value() == value


def test_recorded_overrides_are_given_back_without_what_changes_no_result():
    asked = [
        "experiment=augmentation",
        "data.nok='nok/* x'",
        "seed=3",
        "paths.runs=/tmp/x",
        "tracking=none",
        "force=true",
    ]
    run = Run(Path("r"), "r", "done", overrides=asked)
    line = command(run)
    assert shlex.split(line) == ["anomalib-lite", "train", "experiment=augmentation", "data.nok='nok/* x'"]


def test_a_run_without_a_record_gets_what_its_configuration_tells():
    config = {
        "data": {"root": "/data/my sets", "category": "cable", "val_share": 0.2, "split_seed": 0},
        "image_size": 192, "batch_size": 16, "detector": {"epochs": 9}, "keep": "last",
    }  # fmt: skip
    choices = {"data": "mvtec_ad", "detector": "padim", "backbone": "efficientnet_lite0", "tta": "none"}
    line = command(Run(Path("r"), "r", "done", config=config, choices=choices), ["detector", "detector.epochs"])
    assert shlex.split(line)[2:] == [
        "data=mvtec_ad", "detector=padim", "data.root='/data/my sets'", "data.category=cable", "image_size=192",
        "detector.epochs=9",
    ]  # fmt: skip
