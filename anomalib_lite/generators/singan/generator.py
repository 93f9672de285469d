"""SinGAN behind the contract of all generators."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomalib_lite.data.decode import read_image, resize_image
from anomalib_lite.errors import UserError
from anomalib_lite.generators.base import Generated, Generator
from anomalib_lite.generators.singan.pyramid import (
    Pyramid,
    check_start,
    pyramid_sizes,
    random_sample,
    read_pyramid,
    reconstruction_errors,
    seeded,
    to_pixels,
    to_tensor,
)
from anomalib_lite.generators.singan.training import Job, Schedule, Shape, train_pyramid
from anomalib_lite.runs.atomic import write_json

log = logging.getLogger(__name__)

SUMMARY = "singan.json"  # written last


class SinGAN(Generator):
    """A pyramid of small GANs for each of a few OK images; every sample is a variation of one of them.

    Shaham, Dekel, Michaeli, "SinGAN: Learning a Generative Model from a Single Natural Image", ICCV 2019. The template
    is not used.
    images: how many OK images get a pyramid of their own, spread over the set. start_scale: of the samples; below it
    they are the training image, so that higher ones keep more of its structure; 0: all is new. stretch: height and
    width of the samples relative to the training image. shape, schedule: of the pyramids and of their training.
    accelerator, precision: as Lightning's Trainer names them.
    """

    after_training = ("start_scale", "stretch")

    def __init__(
        self,
        shape: Shape = Shape(),  # noqa: B008 - frozen
        schedule: Schedule = Schedule(),  # noqa: B008
        images: int = 1,
        start_scale: int = 3,
        stretch: Sequence[float] = (1.0, 1.0),
        accelerator: str = "cpu",
        precision: str = "32-true",
    ) -> None:
        if images < 1 or min(stretch) <= 0 or len(stretch) != 2:
            raise UserError(
                f"SinGAN needs images >= 1 and two positive numbers as stretch, not {images} and {list(stretch)}."
            )
        self.shape, self.schedule = shape, schedule
        self.accelerator, self.precision = accelerator, precision
        self.images, self.start_scale = images, start_scale
        self.stretch = (float(stretch[0]), float(stretch[1]))
        self.pyramids: list[Pyramid] = []

    def fit(self, ok: Sequence[Path], template: Path | None, folder: Path, seed: int, logger: Any = None) -> None:
        """Leaves image-00/ and on, with the image and a file for each scale, and singan.json.

        logger: one Lightning logger, several, or None.
        """
        loggers = [] if logger is None else list(logger) if isinstance(logger, Sequence) else [logger]
        contents = spread(len(ok), self.images, seed)
        jobs = [self._job(ok[content], content, number, folder, seed) for number, content in enumerate(contents)]
        self.pyramids, notes, steps = [], [], 0
        for job in jobs:
            pyramid = train_pyramid(replace(job, loggers=loggers, first_step=steps))
            self.pyramids.append(pyramid)
            steps += len(job.sizes) * self.schedule.iterations
            errors = [round(error, 4) for error in reconstruction_errors(pyramid)]
            seconds = [round(scale.seconds, 1) for scale in pyramid.scales]
            notes.append(
                {"content": job.content, "sizes": job.sizes, "reconstruction_rmse": errors, "seconds": seconds}
            )
            log.info("%s: %d scales in %.1f minutes", job.name, len(job.sizes), sum(seconds) / 60)
        write_json(folder / SUMMARY, notes)

    def load(self, folder: Path) -> None:
        if not (folder / SUMMARY).is_file():
            raise UserError(f"{folder} holds no finished SinGAN: {SUMMARY} is missing. Train it again.")
        notes = json.loads((folder / SUMMARY).read_text())
        self.pyramids = [read_pyramid(_place(folder, n), note["content"]) for n, note in enumerate(notes)]

    def sample(self, n: int, seed: int, ok: Sequence[Path]) -> Iterator[Generated]:
        """In turn from each pyramid. Sample i depends on the seed and i alone."""
        device = "cuda" if self.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
        if not self.pyramids:
            raise UserError("This SinGAN has not been trained or loaded yet.")
        for number in range(n):
            pyramid = self.pyramids[number % len(self.pyramids)].to(device)
            image = random_sample(pyramid, self.start_scale, seeded(seed, number), self.stretch)
            yield Generated(to_pixels(image).numpy(), pyramid.content, "generated")

    def _job(self, image: Path, content: int, number: int, folder: Path, seed: int) -> Job:
        pixels, shape = read_image(image), self.shape
        sizes = pyramid_sizes(pixels.shape[0], pixels.shape[1], shape.factor, shape.max_size, shape.min_size)
        check_start(self.start_scale, len(sizes))
        return Job(
            content=content,
            real=to_tensor(torch.from_numpy(resize_image(pixels, *sizes[-1]))),
            sizes=sizes,
            shape=shape,
            schedule=self.schedule,
            seed=(seed, number),
            folder=_place(folder, number),
            name=f"image {number + 1}/{self.images}",
            accelerator=self.accelerator,
            precision=self.precision,
        )


def spread(available: int, count: int, seed: int) -> list[int]:
    """The places of `count` images, one from each of as many equal stretches of those available."""
    if count > available:
        raise UserError(f"SinGAN was asked for {count} images (generator.images), but there are {available} OK ones.")
    edges = np.linspace(0, available, count + 1).round().astype(int)
    rng = np.random.default_rng(seed)
    return [int(rng.integers(begin, end)) for begin, end in itertools.pairwise(edges)]


def _place(folder: Path, number: int) -> Path:
    return folder / f"image-{number:02d}"
