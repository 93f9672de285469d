"""One image -> its pyramid, scale by scale; each finished scale is kept, so that a killed training goes on there."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from anomalib_lite.generators.singan.files import FinishedScale, PyramidFiles
from anomalib_lite.generators.singan.losses import rmse
from anomalib_lite.generators.singan.networks import Critic, ScaleGenerator, initialise
from anomalib_lite.generators.singan.progress import Progress
from anomalib_lite.generators.singan.pyramid import Size, channels, resize
from anomalib_lite.generators.singan.scale_training import ScaleTraining, Schedule
from anomalib_lite.generators.singan.scales import Pyramid, Scale, reconstruct, reconstruction_errors, seeded
from anomalib_lite.runs.artifacts import artifact_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """factor, max_size, min_size: see `pyramid_sizes`. width, max_width: channels of the coarsest scale and at most.
    noise: the amplitude at finer scales, as a share of what the scales below leave open.
    """

    factor: float = 0.75
    max_size: int = 250
    min_size: int = 25
    width: int = 32
    max_width: int = 128
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
    trainer = Trainer(
        accelerator=job.accelerator,
        devices=1,
        precision=job.precision,
        max_epochs=1,
        callbacks=[_progress(job, number)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=job.folder,
    )
    trainer.fit(training, DataLoader(range(job.schedule.iterations), batch_size=None))
    pyramid.to("cpu")
    generator.eval()
    return FinishedScale(scale, critic)


def _progress(job: Job, number: int) -> Progress:
    step = job.first_step + number * job.schedule.iterations
    return Progress(job.name, number, len(job.sizes), step, job.loggers)


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
