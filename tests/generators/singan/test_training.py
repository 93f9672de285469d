"""A pyramid's training: what each step changes, the schedule, noise, resuming after a kill, warm starts."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning import Fabric
from safetensors.torch import load_file

from anomalib_lite.generators.singan import Schedule, generator
from anomalib_lite.generators.singan.generator import ScaleTraining
from anomalib_lite.generators.singan.pyramid import (
    Critic,
    Pyramid,
    Scale,
    ScaleGenerator,
    gradient_penalty,
    initialise,
    reconstruct,
    resize,
)
from tests.generators.singan.conftest import QUICK, tiny_singan


def untrained(**schedule) -> ScaleTraining:
    draw = torch.Generator().manual_seed(1)
    real = torch.rand(1, 3, 16, 16, generator=draw) * 2 - 1
    noise = torch.randn(1, 1, 16, 16, generator=draw).repeat(1, 3, 1, 1)
    scale = Scale((16, 16), ScaleGenerator(4), Critic(4))
    for network in (scale.generator, scale.critic):
        initialise(network, draw)
    settings = Schedule(**{"critic_steps": 1, "generator_steps": 1} | schedule)
    return ScaleTraining(
        scale, Pyramid(0, real, noise, [(16, 16)]), real, settings, draw, Fabric(accelerator="cpu", devices=1)
    )


def test_each_iteration_takes_the_steps_asked_for(monkeypatch):
    taken = []
    for name in ("_step_critic", "_step_generator"):
        step = getattr(ScaleTraining, name)
        monkeypatch.setattr(ScaleTraining, name, lambda self, *a, n=name, s=step: (taken.append(n), s(self, *a)))
    untrained(critic_steps=3, generator_steps=2).step()
    assert taken == ["_step_critic"] * 3 + ["_step_generator"] * 2


def test_the_rate_is_a_tenth_after_four_fifths():
    training, rates = untrained(iterations=10), []
    for _ in range(10):
        rates.append([o.param_groups[0]["lr"] for o in training.optimizers])
        training.step()
    assert rates == [[5e-4] * 2] * 8 + [[pytest.approx(5e-5)] * 2] * 2


def test_a_critic_step_leaves_the_generator_and_a_generator_step_the_critic():
    def weights(network: torch.nn.Module) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in network.parameters()]

    def moved(before: list[torch.Tensor], network: torch.nn.Module) -> bool:
        return any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))

    for critic_steps, generator_steps in ((2, 0), (1, 1)):
        training = untrained(critic_steps=critic_steps, generator_steps=generator_steps)
        before = weights(training.generator), weights(training.critic)
        training.step()
        assert moved(before[0], training.generator) == bool(generator_steps)
        assert moved(before[1], training.critic)
        assert all(parameter.requires_grad for parameter in training.critic.parameters())


def test_the_first_losses_are_those_of_the_untrained_networks():
    """Computed apart from the module, with its own draws repeated."""
    training = untrained(learning_rate=0.0)
    repeated = torch.Generator()
    repeated.set_state(training._draw.get_state())
    generator, critic, real = training.generator, training.critic, training.real
    noise = torch.randn(1, 1, 16, 16, generator=repeated).repeat(1, 3, 1, 1)
    share = torch.rand((), generator=repeated)
    nothing = torch.zeros_like(real)
    fake = generator.body(torch.nn.functional.pad(noise, [5] * 4))
    known = generator(training._below.fixed_noise, nothing)
    expected = {
        "critic": (critic(fake).mean() - critic(real).mean()).item(),
        "penalty": gradient_penalty(critic, real, fake.detach(), share).item(),
        "adversarial": -critic(fake).mean().item(),
        "reconstruction": ((known - real) ** 2).mean().item(),
    }
    training.step()
    assert training.losses == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_more_iterations_remember_the_image_better():
    training = untrained(iterations=40, learning_rate=5e-3, reconstruction=100.0)  # the critic hardly matters
    training.step()
    first = training.losses["reconstruction"]
    for _ in range(40):
        training.step()
    assert training.losses["reconstruction"] < 0.8 * first


def test_finer_scales_get_noise_by_what_the_coarser_ones_leave_open(pyramid):
    real = pyramid.real
    assert pyramid.scales[0].amplitude == 1
    for number in range(1, len(pyramid.scales)):
        size = pyramid.sizes[number]
        left = resize(reconstruct(pyramid, number)[-1], size) - resize(real, size)
        assert pyramid.scales[number].amplitude == pytest.approx(0.1 * math.sqrt(float((left**2).mean())), rel=1e-5)


def test_the_coarsest_fixed_noise_is_one_for_all_colours(pyramid):
    assert torch.equal(pyramid.fixed_noise[:, 0], pyramid.fixed_noise[:, 2])
    assert float(pyramid.fixed_noise.std()) == pytest.approx(1, abs=0.15)


def tensors(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {str(path.relative_to(folder)): load_file(path) for path in sorted(folder.rglob("*.safetensors"))}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[f].keys() == b[f].keys() and all(torch.equal(a[f][k], b[f][k]) for k in a[f]) for f in a
    )


def test_a_killed_training_goes_on_at_its_scale_and_ends_the_same_to_the_bit(trained, ok, tmp_path, monkeypatch):
    def killed(self: ScaleTraining) -> None:
        if len(self._below.scales) == 2 and self.losses:
            raise RuntimeError("killed")
        step(self)

    step = ScaleTraining.step
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(ScaleTraining, "step", killed)
        tiny_singan(images=2).fit(ok, None, tmp_path, seed=7)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*scale*")}
    assert sorted(path.name for path in kept) == ["scale-00.safetensors", "scale-01.safetensors"]
    singan = tiny_singan(images=2)
    singan.fit(ok, None, tmp_path, seed=7)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert equal(tensors(tmp_path), tensors(trained[1]))
    for a, b in zip(singan.sample(2, 0, ok), trained[0].sample(2, 0, ok), strict=True):
        assert (a.image == b.image).all()
    for changes, seed in (({"images": 2}, 8), ({"images": 1}, 8)):  # another training takes nothing over
        tiny_singan(**changes).fit(ok, None, tmp_path, seed)
        assert all(path.stat().st_mtime_ns > time for path, time in kept.items())
        kept = {path: path.stat().st_mtime_ns for path in kept}


def test_a_scale_of_the_same_width_begins_where_the_one_below_ended(ok, tmp_path, monkeypatch):
    still = replace(QUICK, iterations=1, learning_rate=0.0)
    for name, wider in (("same", 0), ("wider", 4)):
        monkeypatch.setattr(generator, "channels", lambda scale, least, most, wider=wider: 4 + wider * scale)
        (tmp_path / name).mkdir()
        tiny_singan(schedule=still).fit(ok, None, tmp_path / name, 0)
    same, wider = (
        [load_file(tmp_path / name / f"image-00/scale-{n:02d}.safetensors") for n in range(2)]
        for name in ("same", "wider")
    )
    for name in ("generator.body.0.0.weight", "critic.body.4.weight"):
        assert torch.equal(same[0][name], same[1][name])
    assert [len(file["generator.body.0.0.bias"]) for file in wider] == [4, 8]
