"""Reverse distillation: a decoder gives back the teacher's features from a bottleneck that holds OK images alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.backbones import Backbone
from anomalib_lite.detectors.distillation import Distillation
from anomalib_lite.detectors.model import weighted_mean
from anomalib_lite.detectors.rd_network import Bottleneck, Decoder
from anomalib_lite.detectors.selection import SelectedResidualModel


class ReverseDistillation(Distillation):
    """A decoder learns to give back a frozen encoder's features; where it cannot, the image is anomalous.

    Deng, Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022. The student never sees
    the image: only what the bottleneck lets through. Works on any convolutional backbone with two or more layers whose
    strides grow by powers of two. With `gaussian` None and `fusion` sum it is the paper's method.

    blocks: residual blocks a level. The other settings are those of Distillation.
    """

    learners = ("bottleneck", "decoder")

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        epochs: int = 15,
        blocks: int = 2,
        gaussian: SelectedResidualModel | None = None,
        fusion: str = "sum",
        cache_mb: float = 2048,
    ) -> None:
        super().__init__(backbone, optimizer, scheduler, epochs, gaussian, fusion, cache_mb)
        channels, strides = self.teacher.channels, self.teacher.strides
        self.bottleneck = Bottleneck(channels, strides, blocks)
        self.decoder = Decoder(channels, strides, blocks)
        self.built()

    def answers(self, features: list[Tensor], image: Tensor) -> list[Tensor]:
        return self.decoder(self.bottleneck(features), [f.shape[-2:] for f in features])

    def loss(self, targets: list[Tensor], answers: list[Tensor], weight: Tensor) -> Tensor:
        """1 - cosine of each image's whole levels, flattened, summed over the levels, as in the authors' code."""
        pairs = zip(targets, answers, strict=True)
        losses = [1 - F.cosine_similarity(t.flatten(1), a.flatten(1), dim=1) for t, a in pairs]
        return torch.stack([weighted_mean(loss, weight) for loss in losses]).sum()
