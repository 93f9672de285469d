"""A pyramid's training: resumed after a kill, warm starts, and what counts as the same training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anomalib_lite.generators.singan import training
from anomalib_lite.generators.singan.pyramid import Critic, PyramidFiles, pyramid_sizes, to_tensor
from anomalib_lite.generators.singan.training import Job, ScaleTraining, train_pyramid
from tests.generators.singan.conftest import QUICK, TINY, tiny_singan


def job(folder: Path, **changes) -> Job:
    pixels = torch.arange(40 * 40 * 3).remainder(251).to(torch.uint8).reshape(40, 40, 3)
    sizes = pyramid_sizes(40, 40, TINY.factor, 40, 25)
    return replace(Job(0, to_tensor(pixels), sizes, TINY, QUICK, (0, 0), folder), **changes)


def tensors(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {str(path.relative_to(folder)): load_file(path) for path in sorted(folder.rglob("*.safetensors"))}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[f].keys() == b[f].keys() and all(torch.equal(a[f][k], b[f][k]) for k in a[f]) for f in a
    )


def test_a_killed_training_goes_on_at_its_scale_and_ends_the_same_to_the_bit(trained, ok, tmp_path, monkeypatch):
    def killed(self: ScaleTraining, batch: torch.Tensor, index: int) -> None:
        if len(self._below.scales) == 2 and index == 3:
            raise RuntimeError("killed")
        step(self, batch, index)

    step = ScaleTraining.training_step
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(ScaleTraining, "training_step", killed)
        tiny_singan(images=2).fit(ok, None, tmp_path, seed=7)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*scale*")}
    assert sorted(path.name for path in kept) == ["scale-00.safetensors", "scale-01.safetensors"]
    singan = tiny_singan(images=2)
    singan.fit(ok, None, tmp_path, seed=7)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert equal(tensors(tmp_path), tensors(trained[1]))
    for a, b in zip(singan.sample(2, 0, ok), trained[0].sample(2, 0, ok), strict=True):
        assert (a.image == b.image).all()


def test_a_scale_of_the_same_width_begins_where_the_one_below_ended(tmp_path, monkeypatch):
    still = replace(QUICK, iterations=1, learning_rate=0.0)
    train_pyramid(job(tmp_path / "same", schedule=still))
    files = [load_file(tmp_path / "same" / f"scale-{n:02d}.safetensors") for n in range(2)]
    for name in ("generator.body.0.0.weight", "critic.body.4.weight"):
        assert torch.equal(files[0][name], files[1][name])
    monkeypatch.setattr(training, "channels", lambda scale, least, most: 4 + 4 * scale)
    train_pyramid(job(tmp_path / "wider", schedule=still))
    files = [load_file(tmp_path / "wider" / f"scale-{n:02d}.safetensors") for n in range(2)]
    assert [len(file["generator.body.0.0.bias"]) for file in files] == [4, 8]


@pytest.mark.parametrize("change", ["seed", "schedule", "pixels"])
def test_scales_of_another_training_are_not_gone_on_from(tmp_path, change):
    first = job(tmp_path)
    train_pyramid(first)
    other = {
        "seed": {"seed": (1, 0)},
        "schedule": {"schedule": replace(QUICK, iterations=5)},
        "pixels": {"real": -first.real},
    }[change]
    assert PyramidFiles(tmp_path, first.key).read(1) is not None
    assert PyramidFiles(tmp_path, job(tmp_path, **other).key).read(1) is None


def test_a_name_or_a_place_does_not_change_the_training(tmp_path):
    assert job(tmp_path).key == job(tmp_path / "elsewhere", name="another", first_step=100).key


def test_the_critic_comes_along_for_the_next_scale(tmp_path):
    train_pyramid(job(tmp_path))
    finished = PyramidFiles(tmp_path).read(0)
    assert isinstance(finished.critic, Critic)
    assert finished.width == 4
    assert finished.seconds > 0
    assert not finished.scale.generator.training
