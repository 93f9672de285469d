"""Reverse distillation: a decoder gives back the teacher's features from a bottleneck that holds OK images alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.augment.transforms import Augment
from anomalib_lite.augment.tta import TestTimeAugmentation
from anomalib_lite.backbones import Backbone
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.base import Batches, Detector, weighted_mean
from anomalib_lite.detectors.distances import fuse, half_squared_distance
from anomalib_lite.detectors.feature_cache import FeatureCache
from anomalib_lite.detectors.rd_network import Bottleneck, Decoder


class ReverseDistillation(Detector):
    """A decoder learns to give back a frozen encoder's features; where it cannot, the image is anomalous.

    Deng, Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022. The student never sees
    the image: only what the bottleneck lets through. Works on any convolutional backbone with two or more layers whose
    strides grow by powers of two.

    optimizer: makes the optimizer from the parameters of bottleneck and decoder; scheduler: the learning-rate schedule
    from the optimizer and `total_steps`, or None. blocks: residual blocks a level. fusion: `sum` (the paper's) or
    `product` of the levels' maps. cache_mb: memory for the teacher's features of the training images.
    """

    after_training = ("fusion", "cache_mb")

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        blur: nn.Module,
        score: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        epochs: int = 20,
        blocks: int = 2,
        fusion: str = "sum",
        cache_mb: float = 2048,
        tta: TestTimeAugmentation | None = None,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(blur, score, tta, augment)
        self.teacher = backbone().requires_grad_(False)
        channels, strides = self.teacher.channels, self.teacher.strides
        self.bottleneck = Bottleneck(channels, strides, blocks)
        self.decoder = Decoder(channels, strides, blocks)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.epochs, self.fusion = epochs, fusion
        self._cache = FeatureCache(self.teacher, cache_mb)
        self.to(memory_format=torch.channels_last)
        self.train()  # Lightning keeps the modes that it finds

    def train(self, mode: bool = True) -> ReverseDistillation:
        """The teacher never leaves eval mode: its batch statistics belong to its weights."""
        super().train(mode)
        self.teacher.eval()
        return self

    def prepare(self, batches: Batches) -> None:
        for _ in self._cache.fill(batches, "teacher's features"):
            pass

    def training_step(self, batch: Batch, step: int) -> Tensor:
        loss = self._loss(self._cache.get(batch), batch.weight)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, step: int) -> None:
        loss = self._loss(self.teacher(batch.image), torch.ones_like(batch.weight))
        self.log("val_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([*self.bottleneck.parameters(), *self.decoder.parameters()])
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def trained_state(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.state_dict().items() if k.startswith(("bottleneck.", "decoder."))}

    def calibrate(self, batches: Batches) -> None:
        self._cache.clear()

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        teacher = self.teacher(image)
        answers = self._answers(teacher)
        return fuse([half_squared_distance(t, a) for t, a in zip(teacher, answers, strict=True)], self.fusion)

    def _answers(self, features: Sequence[Tensor]) -> list[Tensor]:
        return self.decoder(self.bottleneck(features), [f.shape[-2:] for f in features])

    def _loss(self, teacher: Sequence[Tensor], weight: Tensor) -> Tensor:
        """1 - cosine of each image's whole levels, flattened, summed over the levels, as in the authors' code."""
        pairs = zip(teacher, self._answers(teacher), strict=True)
        losses = [1 - F.cosine_similarity(t.flatten(1), a.flatten(1), dim=1) for t, a in pairs]
        return torch.stack([weighted_mean(loss, weight) for loss in losses]).sum()
