"""Which image is drawn at each step, and how it is cropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import OK, Sample

JITTER = 0.2  # half-width of the factors of brightness, contrast and saturation


class Draw(NamedTuple):
    """image: index into all images. jitter: factors of brightness, contrast and saturation."""

    image: int
    domain: int
    top: int
    left: int
    flip: bool
    jitter: tuple[float, float, float]


@dataclass(frozen=True)
class DrawRule:
    """crop: (height, width) in px. flip: half of the crops are mirrored, left to right. jitter: colours are changed.

    template_share: probability that a step's image comes from the second list (the template's domain).
    """

    crop: tuple[int, int]
    flip: bool
    template_share: float
    jitter: bool = False


class Images(Dataset[tuple[Tensor, Tensor]]):
    """OK images, and after them the template where there is one, all of one size; indexed by draws."""

    def __init__(self, ok: Sequence[Path], template: Path | None, size: tuple[int, int], rule: DrawRule) -> None:
        paths = [*ok, *([] if template is None else [template])]
        self.images = ImageSet([Sample(path, OK) for path in paths], size, name="images for the GAN")
        self.size, self.rule = size, rule
        self.of_domain = [range(len(ok)), range(len(ok), len(paths))][: 1 if template is None else 2]

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        height, width = self.rule.crop
        image = self.images[draw.image].image[0]
        image = image[:, draw.top : draw.top + height, draw.left : draw.left + width]
        if draw.flip:
            image = image.flip(-1)
        if self.rule.jitter:
            image = _jittered(image, *draw.jitter)
        return image.contiguous(), torch.tensor(draw.domain)

    def __len__(self) -> int:
        return len(self.of_domain[0])

    def draw(self, rng: np.random.Generator, domain: int, image: int) -> Draw:
        top, left = (int(rng.integers(s - c + 1)) for s, c in zip(self.size, self.rule.crop, strict=True))
        flip = bool(rng.random() < 0.5) and self.rule.flip
        b, c, s = (float(f) for f in rng.uniform(1 - JITTER, 1 + JITTER, 3))
        return Draw(image, domain, top, left, flip, (b, c, s))


def _jittered(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """The three in this order, as torchvision's ColorJitter defines them."""
    from kornia import enhance  # seconds

    image = enhance.adjust_brightness_accumulative(image, brightness)
    image = enhance.adjust_contrast_with_mean_subtraction(image, contrast)
    return enhance.adjust_saturation_with_gray_subtraction(image, saturation)


class Draws(Sampler[Draw]):
    """An epoch's draws, which depend on the seed and the epoch alone: the OK images in shuffled order, where each place
    goes to the template with its probability.

    length: draws, filled up to whole batches; the images are gone round where they are fewer. Lightning calls
    `set_epoch` before each epoch.
    """

    def __init__(self, images: Images, length: int, batch: int, seed: int) -> None:
        self.images, self.length, self.seed, self.epoch = images, -(-length // batch) * batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.images))
        for place in range(self.length):
            domain, image = 0, int(order[place % len(order)])
            if len(self.images.of_domain) > 1 and rng.random() < self.images.rule.template_share:
                domain, image = 1, int(rng.choice(self.images.of_domain[1]))
            yield self.images.draw(rng, domain, image)


def training_batches(images: Images, length: int, batch: int, seed: int) -> DataLoader:
    return DataLoader(images, batch, sampler=Draws(images, length, batch, seed))
