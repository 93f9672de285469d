"""The training of one scale against the finished scales below it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning import LightningModule
from torch import Tensor

from anomalib_lite.generators.singan import losses
from anomalib_lite.generators.singan.networks import Critic
from anomalib_lite.generators.singan.pyramid import resize
from anomalib_lite.generators.singan.scales import Noise, Pyramid, Scale, climb, fixed_noise, last, random_noise


@dataclass(frozen=True)
class Schedule:
    """iterations: at each scale, each of so many critic and generator steps. learning_rate, beta1: Adam's. decay_at:
    share of the iterations after which the rate is a tenth. penalty, reconstruction: the losses' weights.
    """

    iterations: int = 2000
    critic_steps: int = 3
    generator_steps: int = 3
    learning_rate: float = 5e-4
    beta1: float = 0.5
    decay_at: float = 0.8
    penalty: float = 0.1
    reconstruction: float = 10.0


class ScaleTraining(LightningModule):
    """A Wasserstein GAN with gradient penalty over the patches of one image, and a reconstruction from fixed noise.

    below: the finished scales. real (1, 3, H, W): the image at this scale. draw: all randomness of this scale.
    Differs from the authors' code in two places, where the paper says otherwise or where their code cannot be meant:
    the coarsest scale's fixed noise is one (theirs is drawn anew at each iteration), and each generator step works on
    what the generator makes now (theirs reuses the graph of the weights before the previous step).
    """

    def __init__(
        self, scale: Scale, critic: Critic, below: Pyramid, real: Tensor, schedule: Schedule, draw: torch.Generator
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = scale.generator, critic
        self._scale, self._below, self._schedule, self._draw = scale, below, schedule, draw
        self.register_buffer("real", real)
        self.losses: dict[str, float] = {}

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
        s = self._schedule
        networks = (self.critic, self.generator)
        optimizers = [torch.optim.Adam(n.parameters(), s.learning_rate, (s.beta1, 0.999)) for n in networks]
        milestone = [round(s.decay_at * s.iterations)]
        return optimizers, [torch.optim.lr_scheduler.MultiStepLR(o, milestone, 0.1) for o in optimizers]

    def on_train_start(self) -> None:
        """The scales below do not change any more: what they make of the fixed noise is computed once."""
        self._below.to(self.device)
        self._noise = random_noise(self._draw, self.device)
        self._fixed = self._scale.amplitude * fixed_noise(self._below)(len(self._below.scales), self._scale.size)
        self._known = self._from_below(fixed_noise(self._below))

    def training_step(self, batch: Tensor, index: int) -> None:
        for_critic, for_generator = self.optimizers()
        for _ in range(self._schedule.critic_steps):
            noise, previous = self._input()
            self._step_critic(for_critic, noise, previous)
        self.critic.requires_grad_(False)  # spares the gradients that nobody uses
        for _ in range(self._schedule.generator_steps):
            self._step_generator(for_generator, noise, previous)
        self.critic.requires_grad_(True)
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def _step_critic(self, optimizer: torch.optim.Optimizer, noise: Tensor, previous: Tensor) -> None:
        with torch.no_grad():
            fake = self.generator(noise, previous)
        distance = losses.critic_loss(self.critic(self.real), self.critic(fake))
        share = torch.rand((), generator=self._draw).to(self.device)
        penalty = losses.gradient_penalty(self.critic, self.real, fake, share)
        optimizer.zero_grad()
        self.manual_backward(distance + self._schedule.penalty * penalty)
        optimizer.step()
        self.losses |= {"critic": distance.item(), "penalty": penalty.item()}

    def _step_generator(self, optimizer: torch.optim.Optimizer, noise: Tensor, previous: Tensor) -> None:
        adversarial = losses.adversarial_loss(self.critic(self.generator(noise, previous)))
        reconstruction = losses.reconstruction_loss(self.generator(self._fixed, self._known), self.real)
        optimizer.zero_grad()
        self.manual_backward(adversarial + self._schedule.reconstruction * reconstruction)
        optimizer.step()
        self.losses |= {"adversarial": adversarial.item(), "reconstruction": reconstruction.item()}

    def _input(self) -> tuple[Tensor, Tensor]:
        """Fresh noise of this scale's amplitude, and a fresh image from the scales below."""
        previous = self._from_below(self._noise)
        return self._scale.amplitude * self._noise(len(self._below.scales), self._scale.size), previous

    @torch.no_grad()
    def _from_below(self, noise: Noise) -> Tensor:
        if not self._below.scales:
            return torch.zeros_like(self.real)
        return resize(last(climb(self._below.scales, noise)), self._scale.size)
