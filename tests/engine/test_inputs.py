"""What a training starts from: the order and weights of its images, and which templates take part."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from anomalib_lite.data.sample import NOK, OK, Sample, Splits
from anomalib_lite.engine import fit
from anomalib_lite.engine.fit import make_inputs
from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import Mode
from tests.made import write_image

WEIGHTS = {"real": 5, "generated": 1, "template_generated": 2, "template": 10}


def asked(folder: Path, mode: str, **given: Any) -> Any:
    """What of a plan decides the inputs."""
    parts = {"order": None, "generates": False, "restyles": False, "teaching": None} | given
    return SimpleNamespace(mode=Mode(mode, "none", WEIGHTS), artifacts=folder / "artifacts", **parts)


def pairs(folder: Path) -> Splits:
    """Six images, each with a template of its own: three to learn from, one held out, two for testing."""
    samples = []
    for k in range(6):
        template = write_image(folder / f"{k}_template.png", seed=10 + k)
        samples.append(Sample(write_image(folder / f"{k}.png", k), NOK if k == 5 else OK, template=template))
    return Splits(samples[:3], samples[3:4], samples[4:])


def test_of_pairs_the_training_images_templates_alone_take_part(tmp_path):
    made = make_inputs(asked(tmp_path, "template"), pairs(tmp_path), "hash")
    assert made.template is None and made.real == 3
    assert [s.origin for s in made.splits.train] == ["real"] * 3 + ["template"] * 3
    assert [s.image.name for s in made.splits.train[3:]] == [f"{k}_template.png" for k in range(3)]
    assert [s.weight for s in made.splits.train] == [1] * 3 + [2] * 3
    assert [s.template for s in made.splits.test] == [s.template for s in pairs(tmp_path).test], "each keeps its own"


def test_templates_are_read_with_the_depth_of_the_training_images(tmp_path):
    made = make_inputs(asked(tmp_path, "template"), pairs(tmp_path).with_bits(12), "hash")
    assert {s.bits for s in made.splits.train} == {12}


def test_without_template_mode_no_template_is_seen(tmp_path):
    made = make_inputs(asked(tmp_path, "no_template"), pairs(tmp_path), "hash")
    assert len(made.splits.train) == made.real == 3
    assert all(s.template is None for _, samples in made.splits for s in samples)


def test_a_held_out_image_is_no_template(tmp_path):
    splits = pairs(tmp_path)
    held = splits.val[0].image
    with pytest.raises(UserError, match=held.name):
        one = Splits(*([Sample(s.image, s.label, template=held) for s in samples] for _, samples in splits))
        make_inputs(asked(tmp_path, "template"), one, "hash")


def test_generated_images_leave_the_runs_randomness_alone(tmp_path, monkeypatch):
    """Made now or found, the student that follows starts from the same numbers."""

    def generated(_: Any, ok: list[Sample], *__: Any) -> SimpleNamespace:
        torch.rand(int(torch.randint(9, ()) + 1))
        made = [replace(ok[0], image=tmp_path / f"{k}.png", origin="generated") for k in range(4)]
        return SimpleNamespace(samples=made, report=tmp_path / "report")

    drawn = []
    monkeypatch.setattr(fit, "generated_set", generated)
    for generates in (False, True):
        torch.manual_seed(3)
        made = make_inputs(asked(tmp_path, "no_template", generates=generates), pairs(tmp_path), "hash")
        drawn.append(torch.rand(3))
    assert [s.origin for s in made.splits.train] == ["real"] * 3 + ["generated"] * 4
    assert [s.weight for s in made.splits.train[3:]] == [0.2] * 4 and made.generated == tmp_path / "report"
    assert torch.equal(*drawn)
