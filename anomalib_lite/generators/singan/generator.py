"""SinGAN: a pyramid of GANs per image, trained scale by scale; an interrupted training resumes at the last one."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning import Fabric
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from anomalib_lite.data.decode import read_sample
from anomalib_lite.data.sample import Sample
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Generated, Generator, device_for
from anomalib_lite.generators.singan.pyramid import (
    SCALE,
    Pyramid,
    Scale,
    climb,
    gradient_penalty,
    new_pyramid,
    random_noise,
    read_pyramid,
    read_scale,
    resize,
    rmse,
    seeded,
    to_pixels,
)
from anomalib_lite.runs.artifacts import artifact_key, content_hash
from anomalib_lite.runs.atomic import write_json
from anomalib_lite.runs.checkpoints import diverged_batch, stop_where_diverged
from anomalib_lite.settings.training import ScaleSchedule, Shape

log = logging.getLogger(__name__)
EVERY = 10  # iterations between logged values
PLACE, SUMMARY = "image-{:02d}", "singan.json"  # the summary is written last: it marks a finished training
Record = Callable[[int, Mapping[str, float]], None]  # called with a pyramid's iteration and losses


@dataclass(eq=False)
class SinGAN(Generator):
    """Trains a pyramid of small GANs on each of a few OK images; every sample is a variation of one of them.

    Shaham, Dekel, Michaeli, "SinGAN: Learning a Generative Model from a Single Natural Image", ICCV 2019. Does not use
    the template. The options are those of `settings.training.SinGAN`.
    """

    after_training = ("start_scale", "stretch")

    shape: Shape = field(default_factory=Shape)
    schedule: ScaleSchedule = field(default_factory=ScaleSchedule)
    images: int = 1
    start_scale: int = 3
    stretch: Sequence[float] = (1.0, 1.0)
    accelerator: str = "cpu"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if len(self.stretch) != 2:
            raise UserError(f"generator.stretch must be two numbers, for height and width, not {list(self.stretch)}.")
        self.stretch, self.pyramids = tuple(self.stretch), list[Pyramid]()
        # a group of settings that is null means its defaults
        self.shape, self.schedule = self.shape or Shape(), self.schedule or ScaleSchedule()

    def fit(self, ok: Sequence[Sample], template: Sample | None, folder: Path, seed: int, logger: Any = None) -> None:
        """Trains, and writes singan.json and, for each pyramid, a folder image-NN/ with a file per scale.

        Resumes after the scales of an interrupted training if that had the same images and settings.
        """
        contents = spread(len(ok), self.images, seed)
        self.pyramids = [
            new_pyramid(read_sample(ok[c]), c, self.shape, (seed, number)) for number, c in enumerate(contents)
        ]
        for pyramid in self.pyramids:
            pyramid.check_start(self.start_scale)
        images, settings = [content_hash(ok[c].image) for c in contents], (asdict(self.shape), asdict(self.schedule))
        key = artifact_key(images, seed, settings, self.precision)
        key_file = folder / "made_of.json"
        if not key_file.is_file() or json.loads(key_file.read_text()) != key:
            for old in (*folder.glob("image-*/scale-*.safetensors"), folder / SUMMARY):
                old.unlink(missing_ok=True)
            write_json(key_file, key)
        notes = []
        for number, pyramid in enumerate(self.pyramids):
            self._train_pyramid(number, seed, folder, logger or [])
            at_scales = [(image, resize(pyramid.real, image.shape[-2:])) for image in pyramid.reconstruct()]
            errors = [round(rmse(image, real) / 2, 4) for image, real in at_scales]  # of images in [0, 1]
            notes.append({"content": pyramid.content, "sizes": pyramid.sizes, "reconstruction_rmse": errors})
        write_json(folder / SUMMARY, notes)

    def load(self, folder: Path) -> None:
        if not (folder / SUMMARY).is_file():
            raise UserError(f"{folder} holds no finished SinGAN ({SUMMARY} is missing): train it again.")
        notes = json.loads((folder / SUMMARY).read_text())
        self.pyramids = [read_pyramid(folder / PLACE.format(n), note["content"]) for n, note in enumerate(notes)]

    def sample(self, n: int, seed: int, ok: Sequence[Sample]) -> Iterator[Generated]:
        """Draws from the pyramids in rotation; sample i depends only on the seed and i."""
        if not self.pyramids:
            raise UserError("This SinGAN has not been trained or loaded yet: call fit or load first.")
        for number in range(n):
            pyramid = self.pyramids[number % len(self.pyramids)].to(device_for(self.accelerator))
            image = pyramid.sample(self.start_scale, seeded(seed, number), self.stretch)
            yield Generated(to_pixels(image).numpy(), pyramid.content, "generated")

    def _train_pyramid(self, number: int, seed: int, folder: Path, loggers: Sequence[Any]) -> None:
        """Trains all scales, each with its own random numbers: resumed on a CPU, the weights are bit-identical."""
        pyramid, place, name = self.pyramids[number], folder / PLACE.format(number), f"image {number + 1}/{self.images}"
        earlier = sum(len(finished.sizes) for finished in self.pyramids[:number])

        def record(step: int, losses: Mapping[str, float]) -> None:
            values = {f"singan {name}/{key}": value for key, value in losses.items()}
            for logger in loggers:
                logger.log_metrics(values, step=earlier * self.schedule.iterations + step)

        pyramid.write_start(place)
        for index, (height, width) in enumerate(pyramid.sizes):
            title = f"{name}, scale {index + 1}/{len(pyramid.sizes)} ({height} x {width} px)"
            file, begin = place / SCALE.format(index), time.perf_counter()
            scale = read_scale(file)
            if scale is None:
                scale = self._train_scale(pyramid, seeded(seed, number, index), folder, title, record)
                scale.write(file)
                log.info("%s: trained in %.0f s", title, time.perf_counter() - begin)
            pyramid.scales.append(scale)

    def _train_scale(self, pyramid: Pyramid, draw: torch.Generator, folder: Path, title: str, record: Record) -> Scale:
        number, iterations = len(pyramid.scales), self.schedule.iterations
        scale, real = pyramid.next_scale(self.shape, draw), resize(pyramid.real, pyramid.sizes[number])
        fabric = Fabric(accelerator=self.accelerator, devices=1, precision=cast("Any", self.precision))
        training = ScaleTraining(scale, pyramid, real, self.schedule, draw, fabric)
        batch_file, image = diverged_batch(folder), real / 2 + 0.5
        with tqdm(total=iterations, desc=f"singan {title}", unit="iteration", leave=False) as bar:
            for done in range(1, iterations + 1):
                training.step()
                when = f"iteration {done} of SinGAN's scale {number + 1}"
                loss, advice = sum(training.losses.values()), "Lower generator.schedule.learning_rate"
                stop_where_diverged(loss, image, batch_file, when, advice)
                bar.update()
                if done % EVERY == 0 or done == iterations:
                    bar.set_postfix({name: f"{value:.3f}" for name, value in training.losses.items()})
                    record(number * iterations + done, training.losses | {"scale": number})
        pyramid.to("cpu")
        return scale.to("cpu").eval()


def spread(available: int, count: int, seed: int) -> list[int]:
    """Returns random indices of `count` images, one from each of `count` equal intervals of those available."""
    if count > available:
        raise UserError(f"generator.images={count} is more than the {available} OK images: lower it, or add images.")
    edges = np.linspace(0, available, count + 1).round().astype(int)
    rng = np.random.default_rng(seed)
    return [int(rng.integers(begin, end)) for begin, end in itertools.pairwise(edges)]


class ScaleTraining:
    """Trains one scale: a Wasserstein GAN with gradient penalty on the image's patches, and a reconstruction loss.

    Differs from the authors' code in two places. The fixed noise of the coarsest scale is drawn once, as in the paper
    (theirs: at each iteration), and each generator step computes a new fake image (theirs reuses the graph of the
    weights before the previous step, which seems unintended).
    below: the finished scales. real: the image at this scale, (1, 3, H, W). draw: source of all randomness here.
    """

    def __init__(
        self, scale: Scale, below: Pyramid, real: Tensor, schedule: ScaleSchedule, draw: torch.Generator, fabric: Fabric
    ) -> None:
        device, s = fabric.device, schedule
        below.to(device)
        scale.to(device)
        self.generator, self.critic, self.real = scale.generator, scale.critic, real.to(device)
        self._scale, self._below, self._schedule, self._draw, self._fabric = scale, below, schedule, draw, fabric
        self.optimizers: list[Any] = [
            fabric.setup_optimizers(torch.optim.Adam(network.parameters(), s.learning_rate, (s.beta1, 0.999)))
            for network in (self.critic, self.generator)
        ]
        decay = [round(s.decay_at * s.iterations)]
        self._schedulers = [torch.optim.lr_scheduler.MultiStepLR(o, decay, 0.1) for o in self.optimizers]
        self._sizes = [*(finished.size for finished in below.scales), scale.size]
        fixed = torch.zeros_like(self.real) if below.scales else below.fixed_noise
        self._fixed = scale.amplitude * fixed
        self._fixed_previous = self._enlarged(below.reconstruct())  # constant, as the scales below are finished
        self.losses: dict[str, float] = {}

    def step(self) -> None:
        """Runs one iteration, and sets `losses` to those of its last steps."""
        with self._fabric.autocast():
            for _ in range(self._schedule.critic_steps):
                noise, previous = self._draw_inputs()
                self._step_critic(noise, previous)
            self.critic.requires_grad_(False)  # saves computing unused gradients
            for _ in range(self._schedule.generator_steps):
                self._step_generator(noise, previous)
            self.critic.requires_grad_(True)
        for scheduler in self._schedulers:
            scheduler.step()

    @torch.no_grad()
    def _draw_inputs(self) -> tuple[Tensor, Tensor]:
        """Draws noise for this scale, and an image from the scales below."""
        *coarser, noise = random_noise(self._draw, self._sizes, self.real.device)
        return self._scale.amplitude * noise, self._enlarged(climb(self._below.scales, coarser))

    def _enlarged(self, images: Sequence[Tensor]) -> Tensor:
        """Resizes the last scale's image to this scale; returns zeros at the coarsest scale."""
        return resize(images[-1], self._scale.size) if images else torch.zeros_like(self.real)

    def _step_critic(self, noise: Tensor, previous: Tensor) -> None:
        with torch.no_grad():
            fake = self.generator(noise, previous)
        distance = -self.critic(self.real).mean() + self.critic(fake).mean()
        share = torch.rand((), generator=self._draw).to(self.real.device)
        penalty = gradient_penalty(self.critic, self.real, fake, share)
        self._descend(self.optimizers[0], distance + self._schedule.penalty * penalty)
        self.losses |= {"critic": distance.item(), "penalty": penalty.item()}

    def _step_generator(self, noise: Tensor, previous: Tensor) -> None:
        adversarial = -self.critic(self.generator(noise, previous)).mean()
        reconstruction = F.mse_loss(self.generator(self._fixed, self._fixed_previous), self.real)
        self._descend(self.optimizers[1], adversarial + self._schedule.reconstruction * reconstruction)
        self.losses |= {"adversarial": adversarial.item(), "reconstruction": reconstruction.item()}

    def _descend(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self._fabric.backward(loss)
        optimizer.step()
