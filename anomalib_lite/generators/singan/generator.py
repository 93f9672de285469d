"""SinGAN: a pyramid of GANs per image, trained scale by scale; an interrupted training resumes at the last one."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning import Fabric
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from anomalib_lite.data.decode import read_image, resize_image
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Generated, Generator, device_for
from anomalib_lite.generators.singan.pyramid import (
    Critic,
    Pyramid,
    Scale,
    ScaleGenerator,
    channels,
    check_start,
    climb,
    gradient_penalty,
    initialise,
    pyramid_sizes,
    random_noise,
    random_sample,
    read_pyramid,
    read_scale,
    reconstruct,
    reconstruction_errors,
    resize,
    rmse,
    seeded,
    to_pixels,
    to_tensor,
    write_scale,
    write_tensors,
)
from anomalib_lite.runs.artifacts import artifact_key, content_hash
from anomalib_lite.runs.atomic import write_json
from anomalib_lite.runs.checkpoints import diverged_batch, stop_where_diverged
from anomalib_lite.settings.training import ScaleSchedule, Shape

log = logging.getLogger(__name__)
EVERY = 10  # iterations between logged values
SUMMARY = "singan.json"  # written last: marks a finished training


class SinGAN(Generator):
    """Trains a pyramid of small GANs on each of a few OK images; every sample is a variation of one of them.

    Shaham, Dekel, Michaeli, "SinGAN: Learning a Generative Model from a Single Natural Image", ICCV 2019. Does not use
    the template.

    Args:
        shape, schedule: Sizes of the pyramids and their networks, and hyperparameters of the training.
        images: Number of OK images that get a pyramid, spread over the set.
        start_scale: First scale with random noise; a higher one keeps more of the training image's structure.
        stretch: Height and width of the samples relative to the training image.
        accelerator, precision: As for Lightning's Trainer.
    """

    after_training = ("start_scale", "stretch")

    def __init__(
        self,
        shape: Shape | None = None,
        schedule: ScaleSchedule | None = None,
        images: int = 1,
        start_scale: int = 3,
        stretch: Sequence[float] = (1.0, 1.0),
        accelerator: str = "cpu",
        precision: str = "32-true",
    ) -> None:
        if len(stretch) != 2:
            raise UserError(f"generator.stretch must be two numbers, for height and width, not {list(stretch)}.")
        self.shape, self.schedule = shape or Shape(), schedule or ScaleSchedule()
        self.accelerator, self.precision = accelerator, precision
        self.images, self.start_scale = images, start_scale
        self.stretch = (float(stretch[0]), float(stretch[1]))
        self.pyramids: list[Pyramid] = []

    def fit(self, ok: Sequence[Path], template: Path | None, folder: Path, seed: int, logger: Any = None) -> None:
        """Trains, and writes singan.json and, for each pyramid, a folder image-NN/ with a file per scale.

        Resumes after the scales of an interrupted training if that had the same images and settings.
        """
        contents = spread(len(ok), self.images, seed)
        self.pyramids = [self._start(read_image(ok[c]), c, (seed, number)) for number, c in enumerate(contents)]
        images, settings = [content_hash(ok[c]) for c in contents], (asdict(self.shape), asdict(self.schedule))
        key = artifact_key(images, seed, settings, self.precision)
        key_file = folder / "made_of.json"
        if not key_file.is_file() or json.loads(key_file.read_text()) != key:
            for old in (*folder.glob("image-*/scale-*.safetensors"), folder / SUMMARY):
                old.unlink(missing_ok=True)
            write_json(key_file, key)
        notes, steps = [], 0
        for number, pyramid in enumerate(self.pyramids):
            name = f"image {number + 1}/{self.images}"
            record = partial(_log_losses, logger or [], f"singan {name}", steps)
            self._train_pyramid(pyramid, (seed, number), _place(folder, number), name, record)
            steps += len(pyramid.sizes) * self.schedule.iterations
            errors = [round(error, 4) for error in reconstruction_errors(pyramid)]
            notes.append({"content": pyramid.content, "sizes": pyramid.sizes, "reconstruction_rmse": errors})
        write_json(folder / SUMMARY, notes)

    def load(self, folder: Path) -> None:
        if not (folder / SUMMARY).is_file():
            raise UserError(f"{folder} holds no finished SinGAN ({SUMMARY} is missing): train it again.")
        notes = json.loads((folder / SUMMARY).read_text())
        self.pyramids = [read_pyramid(_place(folder, n), note["content"]) for n, note in enumerate(notes)]

    def sample(self, n: int, seed: int, ok: Sequence[Path]) -> Iterator[Generated]:
        """Draws from the pyramids in rotation; sample i depends only on the seed and i."""
        if not self.pyramids:
            raise UserError("This SinGAN has not been trained or loaded yet: call fit or load first.")
        for number in range(n):
            pyramid = self.pyramids[number % len(self.pyramids)].to(device_for(self.accelerator))
            image = random_sample(pyramid, self.start_scale, seeded(seed, number), self.stretch)
            yield Generated(to_pixels(image).numpy(), pyramid.content, "generated")

    def _start(self, pixels: np.ndarray, content: int, seed: tuple[int, ...]) -> Pyramid:
        """Returns a pyramid without scales; `seed` is unique to this pyramid."""
        sizes = pyramid_sizes(
            pixels.shape[0], pixels.shape[1], self.shape.factor, self.shape.max_size, self.shape.min_size
        )
        check_start(self.start_scale, len(sizes))
        fixed = torch.randn(1, 1, *sizes[0], generator=seeded(*seed, len(sizes))).repeat(1, 3, 1, 1)
        return Pyramid(content, to_tensor(torch.from_numpy(resize_image(pixels, *sizes[-1]))), fixed, sizes)

    def _train_pyramid(self, pyramid: Pyramid, seed: tuple[int, ...], folder: Path, name: str, record: Record) -> None:
        """Trains all scales, coarsest first.

        Each scale has its own random numbers, so that on a CPU a resumed training gives bit-identical weights.
        """
        start = {"pixels": to_pixels(pyramid.real), "fixed_noise": pyramid.fixed_noise}
        write_tensors(folder / "start.safetensors", start)
        for number, (height, width) in enumerate(pyramid.sizes):
            title = f"{name}, scale {number + 1}/{len(pyramid.sizes)} ({height} x {width} px)"
            scale = read_scale(folder, number)
            if scale is None:
                begin = time.perf_counter()
                scale = self._train_scale(pyramid, seeded(*seed, number), folder.parent, title, record)
                write_scale(folder, number, scale)
                log.info("%s: trained in %.0f s", title, time.perf_counter() - begin)
            pyramid.scales.append(scale)

    def _train_scale(self, pyramid: Pyramid, draw: torch.Generator, folder: Path, title: str, record: Record) -> Scale:
        number, iterations = len(pyramid.scales), self.schedule.iterations
        scale, real = self._new_scale(pyramid, draw), resize(pyramid.real, pyramid.sizes[number])
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
        scale.to("cpu")
        scale.generator.eval()
        return scale

    def _new_scale(self, pyramid: Pyramid, draw: torch.Generator) -> Scale:
        """Returns a new scale; its networks start from those of the scale below if they have the same width."""
        number = len(pyramid.scales)
        size, width = pyramid.sizes[number], channels(number, self.shape.width, self.shape.max_width)
        scale = Scale(size, ScaleGenerator(width), Critic(width))
        below = pyramid.scales[-1] if pyramid.scales else None
        if below is not None:
            error = rmse(resize(pyramid.real, size), resize(reconstruct(pyramid)[-1], size))
            scale.amplitude = self.shape.noise * error
        if below is not None and below.generator.width == width:
            scale.generator.load_state_dict(below.generator.state_dict())
            scale.critic.load_state_dict(below.critic.state_dict())
        else:
            initialise(scale.generator, draw)
            initialise(scale.critic, draw)
        return scale


Record = Callable[[int, Mapping[str, float]], None]  # called with a pyramid's iteration and losses


def _log_losses(loggers: Sequence[Any], name: str, first_step: int, step: int, losses: Mapping[str, float]) -> None:
    """Logs losses at steps that are counted over all scales and pyramids."""
    for logger in loggers:
        logger.log_metrics({f"{name}/{key}": value for key, value in losses.items()}, step=first_step + step)


def spread(available: int, count: int, seed: int) -> list[int]:
    """Returns random indices of `count` images, one from each of `count` equal intervals of those available."""
    if count > available:
        raise UserError(f"generator.images={count} is more than the {available} OK images: lower it, or add images.")
    edges = np.linspace(0, available, count + 1).round().astype(int)
    rng = np.random.default_rng(seed)
    return [int(rng.integers(begin, end)) for begin, end in itertools.pairwise(edges)]


def _place(folder: Path, number: int) -> Path:
    return folder / f"image-{number:02d}"


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
        self._fixed_previous = self._enlarged(reconstruct(below))  # constant, as the scales below are finished
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
