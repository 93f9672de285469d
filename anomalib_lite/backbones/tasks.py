"""What a backbone is fine-tuned to tell apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from anomalib_lite.augment.cutpaste import cutpaste, scar
from anomalib_lite.augment.transforms import strongly_changed
from anomalib_lite.data.images import to_float, to_pixels
from anomalib_lite.data.sample import NOK, OK, Batch, Sample


@dataclass
class Examples:
    """image: (N, 3, H, W) in [0, 1]. label: (N,) int64, index into the task's classes. weight: (N,), in the loss."""

    image: Tensor
    label: Tensor
    weight: Tensor


class Task(ABC):
    classes: tuple[str, ...]
    wants_generated = False  # whether generated images take part
    wants_nok = False  # whether NOK images may take part

    @abstractmethod
    def samples(self, ok: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
        """Those that the task learns from; others: generated images and, where they were asked for, NOK ones."""

    @abstractmethod
    def examples(self, batch: Batch, seed: int) -> Examples:
        """What is told apart, made from a batch of these samples; the same batch and seed give the same."""


class CutPaste(Task):
    """OK images against copies with a piece of themselves, or a strip, pasted elsewhere: needs OK images alone.

    Li, Sohn, Yoon, Pfister, "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization", CVPR 2021, its
    three-way form. Every OK image gives one example of each class, with the image's weight.
    """

    classes = ("normal", "cutpaste", "scar")

    def samples(self, ok: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
        return list(ok)

    def examples(self, batch: Batch, seed: int) -> Examples:
        pixels = np.ascontiguousarray(to_pixels(batch.image))
        streams = [np.random.default_rng([seed, index]) for index in batch.index.tolist()]
        pasted = [np.stack([paste(p, r) for p, r in zip(pixels, streams, strict=True)]) for paste in (cutpaste, scar)]
        image = torch.cat([batch.image, *map(to_float, pasted)])
        return Examples(image, torch.arange(3).repeat_interleave(len(batch)), batch.weight.repeat(3))


class OKAgainstGenerated(Task):
    """OK images, and the template, against generated ones and against NOK ones where these are given.

    Where nothing is given, against strongly augmented copies of the OK images, with the image's weight.
    """

    classes = ("OK", "generated")
    wants_generated = True
    wants_nok = True

    def __init__(self) -> None:
        self.augments = False

    def samples(self, ok: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
        self.augments = not others
        return [*(replace(s, label=OK) for s in ok), *(replace(s, label=NOK) for s in others)]

    def examples(self, batch: Batch, seed: int) -> Examples:
        if not self.augments:
            return Examples(batch.image, batch.label, batch.weight)
        image = torch.cat([batch.image, strongly_changed(batch.image, (seed * 2**20 + int(batch.index[0])) % 2**63)])
        return Examples(image, torch.arange(2).repeat_interleave(len(batch)), batch.weight.repeat(2))
