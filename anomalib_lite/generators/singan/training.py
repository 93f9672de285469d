"""One image -> its pyramid, scale by scale; each finished scale is kept, so that a killed training goes on there."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from anomalib_lite.generators.base import one_device_trainer
from anomalib_lite.generators.singan.pyramid import (
    Critic,
    FinishedScale,
    Noise,
    Pyramid,
    PyramidFiles,
    Scale,
    ScaleGenerator,
    Size,
    channels,
    climb,
    fixed_noise,
    gradient_penalty,
    initialise,
    last,
    random_noise,
    reconstruct,
    reconstruction_errors,
    resize,
    rmse,
    seeded,
)
from anomalib_lite.runs.artifacts import artifact_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """factor, max_size, min_size: see `pyramid_sizes`. width, max_width: channels of the coarsest scale and at most.
    noise: the amplitude at finer scales, as a share of what the scales below leave open.
    """

    factor: float = 0.75
    max_size: int = 128
    min_size: int = 25
    width: int = 16
    max_width: int = 16
    noise: float = 0.1


@dataclass(frozen=True)
class Job:
    """One pyramid to be trained. seed: numbers that tell this pyramid's randomness from any other's.
    name: for people. first_step: of the loggers.
    """

    content: int
    real: Tensor
    sizes: list[Size]
    shape: Shape
    schedule: Schedule
    seed: tuple[int, ...]
    folder: Path
    name: str = "image"
    first_step: int = 0
    accelerator: str = "cpu"
    precision: str = "32-true"
    loggers: Sequence[Any] = field(default=())

    @property
    def steps(self) -> int:
        """Iterations of all scales."""
        return len(self.sizes) * self.schedule.iterations

    @property
    def key(self) -> str:
        """What the scales' values depend on: finished scales of another key are not gone on from."""
        pixels = self.real.numpy().tobytes().hex()
        settings = [asdict(self.shape), asdict(self.schedule), self.precision]
        return artifact_key(*settings, self.seed, self.sizes, pixels)


def train_pyramid(job: Job) -> tuple[Pyramid, list[float]]:
    """All scales, coarsest first, and the seconds that each took.

    The same job gives the same pyramid to the bit on a CPU, interrupted or not: each scale has a generator of its
    own. Logs, for each finished scale, the error of the reconstruction in the range [0, 1].
    """
    files = PyramidFiles(job.folder, job.key)
    pyramid = Pyramid(job.content, job.real, _fixed_noise(job))
    files.write_start(pyramid)
    seconds: list[float] = []
    previous: FinishedScale | None = None
    for number in range(len(job.sizes)):
        finished = files.read(number)
        if finished is None:
            begin = time.perf_counter()
            finished = _train_scale(job, pyramid, number, previous)
            finished.seconds = time.perf_counter() - begin
            files.write(number, finished)
        seconds.append(round(finished.seconds, 1))
        pyramid.scales.append(finished.scale)
        height, width = job.sizes[number]
        log.info(
            "%s, scale %d/%d (%d x %d px): reconstruction RMSE %.3f, %.0f s",
            job.name, number + 1, len(job.sizes), height, width, reconstruction_errors(pyramid)[-1], finished.seconds,
        )  # fmt: skip
        previous = finished
    return pyramid, seconds


def _train_scale(job: Job, pyramid: Pyramid, number: int, previous: FinishedScale | None) -> FinishedScale:
    draw = seeded(*job.seed, number)
    size = job.sizes[number]
    real = resize(job.real, size)
    generator, critic = _networks(channels(number, job.shape.width, job.shape.max_width), previous, draw)
    amplitude = 1.0
    if pyramid.scales:
        amplitude = job.shape.noise * rmse(real, resize(reconstruct(pyramid)[-1], size))
    scale = Scale(size, generator, amplitude)
    training = ScaleTraining(scale, critic, pyramid, real, job.schedule, draw)
    step = job.first_step + number * job.schedule.iterations
    progress = Progress(job.name, number, len(job.sizes), step, job.loggers)
    trainer = one_device_trainer(
        job.accelerator, job.precision, job.folder, [progress], 1, enable_checkpointing=False, enable_progress_bar=False
    )
    iterations = cast("Dataset[int]", range(job.schedule.iterations))  # any sequence will do
    trainer.fit(training, DataLoader(iterations, batch_size=None))
    pyramid.to("cpu")
    generator.eval()
    return FinishedScale(scale, critic)


def _networks(width: int, previous: FinishedScale | None, draw: torch.Generator) -> tuple[ScaleGenerator, Critic]:
    """Those of the scale below go on where the width is the same; else they begin anew."""
    generator, critic = ScaleGenerator(width), Critic(width)
    if previous is not None and previous.width == width:
        generator.load_state_dict(previous.scale.generator.state_dict())
        critic.load_state_dict(previous.critic.state_dict())
    else:
        initialise(generator, draw)
        initialise(critic, draw)
    return generator, critic


def _fixed_noise(job: Job) -> Tensor:
    """Of the coarsest scale: one channel for all colours."""
    return torch.randn(1, 1, *job.sizes[0], generator=seeded(*job.seed, len(job.sizes))).repeat(1, 3, 1, 1)


@dataclass(frozen=True)
class Schedule:
    """iterations: at each scale, each of so many critic and generator steps. learning_rate, beta1: Adam's. decay_at:
    share of the iterations after which the rate is a tenth. penalty, reconstruction: the losses' weights.
    """

    iterations: int = 400
    critic_steps: int = 1
    generator_steps: int = 1
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

    real: Tensor

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
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(n.parameters(), s.learning_rate, (s.beta1, 0.999)) for n in networks
        ]
        milestone = [round(s.decay_at * s.iterations)]
        return optimizers, [torch.optim.lr_scheduler.MultiStepLR(o, milestone, 0.1) for o in optimizers]

    def on_train_start(self) -> None:
        """The scales below do not change any more: what they make of the fixed noise is computed once."""
        self._below.to(self.device)
        self._noise = random_noise(self._draw, self.device)
        self._fixed = self._scale.amplitude * fixed_noise(self._below)(len(self._below.scales), self._scale.size)
        self._known = self._from_below(fixed_noise(self._below))

    def training_step(self, batch: Tensor, index: int) -> None:
        optimizers, schedulers = cast("Any", self.optimizers()), cast("Any", self.lr_schedulers())
        for_critic, for_generator = optimizers
        for _ in range(self._schedule.critic_steps):
            noise, previous = self._input()
            self._step_critic(for_critic, noise, previous)
        self.critic.requires_grad_(False)  # spares the gradients that nobody uses
        for _ in range(self._schedule.generator_steps):
            self._step_generator(for_generator, noise, previous)
        self.critic.requires_grad_(True)
        for scheduler in schedulers:
            scheduler.step()

    def _step_critic(self, optimizer: torch.optim.Optimizer, noise: Tensor, previous: Tensor) -> None:
        with torch.no_grad():
            fake = self.generator(noise, previous)
        distance = -self.critic(self.real).mean() + self.critic(fake).mean()
        share = torch.rand((), generator=self._draw).to(self.device)
        penalty = gradient_penalty(self.critic, self.real, fake, share)
        optimizer.zero_grad()
        self.manual_backward(distance + self._schedule.penalty * penalty)
        optimizer.step()
        self.losses |= {"critic": distance.item(), "penalty": penalty.item()}

    def _step_generator(self, optimizer: torch.optim.Optimizer, noise: Tensor, previous: Tensor) -> None:
        adversarial = -self.critic(self.generator(noise, previous)).mean()
        reconstruction = F.mse_loss(self.generator(self._fixed, self._known), self.real)
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


EVERY = 10  # iterations between two values


class Progress(Callback):
    """One scale's. The loggers' step runs on over the scales, and `<name>/scale` says which it is."""

    def __init__(self, name: str, scale: int, scales: int, step: int, loggers: Sequence[Any]) -> None:
        self._name, self._scale, self._scales, self._step, self._loggers = name, scale, scales, step, loggers

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, ScaleTraining)
        height, width = module.real.shape[-2:]
        title = f"singan {self._name}, scale {self._scale + 1}/{self._scales} ({height} x {width} px)"
        self._bar = tqdm(total=int(trainer.num_training_batches), desc=title, unit="iteration", leave=False)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, ScaleTraining)
        self._bar.update()
        done = self._bar.n
        if done % EVERY and done != self._bar.total:
            return
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in module.losses.items()})
        values = {f"singan {self._name}/{name}": value for name, value in module.losses.items()}
        for logger in self._loggers:
            logger.log_metrics(values | {f"singan {self._name}/scale": self._scale}, step=self._step + done)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._bar.close()

    def on_exception(self, *_: Any) -> None:
        self._bar.close()
