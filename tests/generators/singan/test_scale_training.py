"""One scale's training: what each step changes, the schedule, and the noise that the scales get."""

from __future__ import annotations

import math

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

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
from anomalib_lite.generators.singan.training import ScaleTraining, Schedule


def module(schedule: Schedule, below: Pyramid | None = None, size=(16, 16)) -> ScaleTraining:
    draw = torch.Generator().manual_seed(1)
    real = torch.rand(1, 3, *size, generator=draw) * 2 - 1
    noise = torch.randn(1, 1, *size, generator=draw).repeat(1, 3, 1, 1)
    networks = ScaleGenerator(4), Critic(4)
    for network in networks:
        initialise(network, draw)
    below = below or Pyramid(0, real, noise)
    return ScaleTraining(Scale(size, networks[0], 1.0), networks[1], below, real, schedule, draw)


def train(training: ScaleTraining, iterations: int) -> None:
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(training, DataLoader(range(iterations), batch_size=None))


def test_each_iteration_takes_the_steps_asked_for(monkeypatch):
    taken = []
    for name in ("_step_critic", "_step_generator"):
        step = getattr(ScaleTraining, name)
        monkeypatch.setattr(ScaleTraining, name, lambda self, *a, n=name, s=step: (taken.append(n), s(self, *a)))
    train(module(Schedule(iterations=2, critic_steps=3, generator_steps=2)), 2)
    assert taken == (["_step_critic"] * 3 + ["_step_generator"] * 2) * 2


def test_the_rate_is_a_tenth_after_four_fifths():
    rates = []

    class Seen(ScaleTraining):
        def on_train_batch_end(self, *_):
            rates.append([o.param_groups[0]["lr"] for o in self.optimizers()])

    training = module(Schedule(iterations=10, critic_steps=1, generator_steps=1))
    training.__class__ = Seen
    train(training, 10)
    assert rates == [[5e-4] * 2] * 7 + [[pytest.approx(5e-5)] * 2] * 3


def test_a_critic_step_leaves_the_generator_and_a_generator_step_the_critic():
    def weights(network: torch.nn.Module) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in network.parameters()]

    def moved(before: list[torch.Tensor], network: torch.nn.Module) -> bool:
        return any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))

    for critic_steps, generator_steps in ((2, 0), (1, 1)):
        training = module(Schedule(iterations=1, critic_steps=critic_steps, generator_steps=generator_steps))
        before = weights(training.generator), weights(training.critic)
        train(training, 1)
        assert moved(before[0], training.generator) == bool(generator_steps)
        assert moved(before[1], training.critic)
        assert all(parameter.requires_grad for parameter in training.critic.parameters())


def test_the_first_losses_are_those_of_the_untrained_networks():
    """Computed apart from the module, with its own draws repeated."""
    training = module(Schedule(iterations=1, critic_steps=1, generator_steps=1, learning_rate=0.0))
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
    train(training, 1)
    assert training.losses == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_more_iterations_remember_the_image_better():
    training = module(Schedule(iterations=40, critic_steps=1, generator_steps=1, learning_rate=5e-3))
    train(training, 1)
    first = training.losses["reconstruction"]
    train(training, 40)
    assert training.losses["reconstruction"] < 0.8 * first


def test_finer_scales_get_noise_by_what_the_coarser_ones_leave_open(pyramid):
    real = pyramid.real
    assert pyramid.scales[0].amplitude == 1
    for number in range(1, len(pyramid.scales)):
        below = Pyramid(pyramid.content, real, pyramid.fixed_noise, pyramid.scales[:number])
        size = pyramid.scales[number].size
        left = resize(reconstruct(below)[-1], size) - resize(real, size)
        assert pyramid.scales[number].amplitude == pytest.approx(0.1 * math.sqrt(float((left**2).mean())), rel=1e-5)


def test_the_coarsest_fixed_noise_is_one_for_all_colours(pyramid):
    assert torch.equal(pyramid.fixed_noise[:, 0], pyramid.fixed_noise[:, 2])
    assert float(pyramid.fixed_noise.std()) == pytest.approx(1, abs=0.15)
