"""SimpleNet: a discriminator between OK features and the same features with noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.augment.synthetic import drawn_batches
from anomalib_lite.augment.tta import View
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.distillation import FeatureLearner
from anomalib_lite.detectors.levels import chosen_levels, grid_of, stack
from anomalib_lite.detectors.model import Batches, Finish, MakeBackbone, MakeOptimizer, weighted_mean
from anomalib_lite.detectors.residual import figures
from anomalib_lite.detectors.statistics import Whitening, moments_of
from anomalib_lite.metrics import ImageMetrics, PixelMetrics

MARGIN = 0.5  # of the truncated loss, th+ and th- of the paper


class SimpleNet(FeatureLearner):
    """A small network learns to tell the features of OK images from the same features with Gaussian noise.

    Liu, Zhou, Xu, Wang, "SimpleNet: A Simple Network for Image Anomaly Detection and Localization", CVPR 2023. With
    longer training, it gets worse at real defects. So every `folds`-th training image is held out, defects are drawn
    into copies of these images, and the epoch with the best maps (mean of image AUROC, pixel AUROC and AUPRO) is kept.
    The authors keep the epoch that is best on the test images.

    Noise is added to features whitened on OK images, so that it is equally large in directions of small variance; the
    paper adds it to raw features. Options: `settings.detectors.SimpleNet`.
    """

    learners = ("network",)
    progress: Tensor

    def __init__(
        self,
        backbone: MakeBackbone,
        optimizer: MakeOptimizer,
        levels: Sequence[int] | None = (1, 2),
        stride: int = 8,
        whitening: Callable[[], Whitening] | None = None,
        noise: float = 0.5,
        hidden: int = 256,
        adaptor_lr: float = 1e-5,
        synthetic: int = 80,
        **training: Any,
    ) -> None:
        super().__init__(backbone, optimizer, **{"folds": 5, "seed": 0} | training)
        self.levels, self.stride = chosen_levels(levels, len(self.teacher.channels)), stride
        self.noise, self.adaptor_lr, self.synthetic = noise, adaptor_lr, synthetic
        self.whitening = None if whitening is None else whitening()
        self.network = Discriminator(sum(self.teacher.channels[level] for level in self.levels), hidden)
        self.kept = deepcopy(self.network).requires_grad_(False)
        self.register_buffer("progress", torch.tensor([0.0, 0.0, -1.0]))  # epochs, kept epoch, its criterion
        self._drawn: list[tuple[Tensor, Batch]] = []
        self.prepare_modules()

    def features(self, image: Tensor) -> list[Tensor]:
        """Computes one level (B, C, H / stride, W / stride): layers averaged over 3 x 3 positions and stacked."""
        features = self.teacher(image)
        averaged = [F.avg_pool2d(features[i], 3, 1, 1, count_include_pad=False) for i in self.levels]
        return [stack(averaged, grid_of(image, self.stride))]

    def prepare(self, batches: Batches) -> None:
        super().prepare(batches)
        drawn = drawn_batches(batches.dataset, self.held_out, self.synthetic, np.random.default_rng(self.seed))
        with torch.no_grad():
            self._drawn = [(self.features(batch.image.to(self.device))[0], batch) for batch in drawn]

    def fit_statistics(self, batches: Iterable[list[Tensor]]) -> None:
        if self.whitening is None:
            return super().fit_statistics(batches)
        self.whitening.fit(*moments_of(([features.cpu()] for (features,) in batches), by_position=False))

    def loss_of(self, features: list[Tensor], batch: Batch, weight: Tensor) -> Tensor:
        """Computes the truncated L1 loss (the paper's equations 5 and 6), weighted by image."""
        if weight.any():  # held-out images must not enter the batch normalisation
            features, weight = [features[0][weight > 0]], weight[weight > 0]
        adapted = self.network.adaptor(self._rows(features[0]))
        noisy = adapted + self.noise * torch.randn_like(adapted)
        logits = self.network.judge(torch.cat([adapted, noisy]).flatten(0, 1)).view(2, len(weight), -1)
        losses = (MARGIN - logits[0]).clamp_min(0).mean(1) + (MARGIN + logits[1]).clamp_min(0).mean(1)
        return weighted_mean(losses, weight)

    def learned(self) -> list[Any]:
        adaptor = {"params": list(self.network.adaptor.parameters()), "lr": self.adaptor_lr}
        return [{"params": list(self.network.judge.parameters())}, adaptor]

    @torch.no_grad()
    def epoch_end(self) -> None:
        by_image, by_pixel = ImageMetrics(), PixelMetrics()
        self.network.eval()
        for features, batch in self._drawn:
            maps = F.interpolate(self._score(self.network, features), batch.image.shape[-2:], mode="bilinear").cpu()
            by_image.update(maps.amax((1, 2, 3)), batch.label.tolist())
            by_pixel.update(maps, batch.mask, batch.label.tolist())
        self.network.train()
        criterion = sum(figures(by_image, by_pixel).values())
        self.progress[0] += 1
        if criterion > self.progress[2]:
            self.progress[1], self.progress[2] = self.progress[0], criterion
            self.kept.load_state_dict(self.network.state_dict())

    def trained_state(self) -> dict[str, Tensor]:
        """Returns the kept epoch's network and the progress."""
        return {k: v for k, v in self.state_dict().items() if k.split(".")[0] in ("kept", "progress")}

    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        self._drawn = []
        self.cache.clear()
        self.network.load_state_dict(self.kept.state_dict())
        epochs, kept, _ = self.progress.tolist()
        self.notes = {"epochs": int(epochs), "epoch_kept": int(kept)}

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        return self._score(self.kept, self.features(image)[0])

    def _score(self, network: Discriminator, features: Tensor) -> Tensor:
        """Maps features (B, C, h, w) to scores (B, 1, h, w) > 0, which grow as the discriminator's output falls."""
        rows = network.adaptor(self._rows(features))
        return F.softplus(-network.judge(rows.flatten(0, 1))).view(features.shape[0], 1, *features.shape[2:])

    def _rows(self, features: Tensor) -> Tensor:
        """Reshapes features (B, C, h, w) to whitened rows (B, positions, C)."""
        features = features if self.whitening is None else self.whitening(features)
        return features.flatten(2).transpose(1, 2)


class Discriminator(nn.Module):
    """A linear feature adaptor, and two layers (N, C) to (N, 1) whose output is large for OK features."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.adaptor = nn.Linear(channels, channels)
        self.judge = nn.Sequential(
            nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1, bias=False)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
