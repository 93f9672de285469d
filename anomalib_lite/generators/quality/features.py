"""What a network sees in images: one vector each, and how far apart each two are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anomalib_lite.backbones.backbone import Backbone, build
from anomalib_lite.data.decode import read_image, resize_image
from anomalib_lite.data.images import to_float

BATCH = 8
COMPARED = 64  # images whose distances between each other are taken


@dataclass(frozen=True)
class SeenImages:
    """pooled: (n, C) float64, the last layer's mean over the image. apart: perceptual distances of all pairs among the
    first `COMPARED` images.
    """

    pooled: np.ndarray
    apart: np.ndarray


@cache
def bundled_backbone() -> Backbone:
    """EfficientNet-Lite0 with the ImageNet weights that the installation brings, all levels to stride 32."""
    net = build("tf_efficientnet_lite0", (1, 2, 3, 4), "bundled", (0.5,) * 3, (0.5,) * 3)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def look_at(images: Iterable[np.ndarray], net: Backbone) -> SeenImages:
    """images: uint8 (H, W, 3) of one size."""
    pooled, directions = [], []
    for batch in _batches(images):
        features = net(to_float(np.stack(batch)))
        pooled.append(features[-1].double().mean(dim=(2, 3)))
        if len(directions) * BATCH < COMPARED:
            directions.append(_directions(features))
    return SeenImages(torch.cat(pooled).numpy(), perceptual_distances(torch.cat(directions)[:COMPARED]))


def perceptual_distances(directions: Tensor) -> np.ndarray:
    """(n, D) -> the n (n - 1) / 2 distances between images: squared, between unit feature vectors, averaged over
    positions and layers; 0 for equal images, at most 4.

    As LPIPS (Zhang et al., CVPR 2018) without its learned channel weights.
    """
    squares = (directions**2).sum(dim=1)
    distances = squares[:, None] + squares[None] - 2 * directions @ directions.T
    rows, columns = np.triu_indices(len(directions), 1)
    return distances.clamp(min=0)[rows, columns].double().numpy()


def read_all(paths: Sequence[Path], size: tuple[int, int]) -> Iterable[np.ndarray]:
    return (resize_image(read_image(path), *size) for path in paths)


def _directions(features: list[Tensor]) -> Tensor:
    """(B, D), scaled so that squared distances are the means over positions and layers."""
    parts = []
    for layer in features:
        unit = torch.nn.functional.normalize(layer, dim=1, eps=1e-8)
        parts.append(unit.flatten(1) / (layer.shape[2] * layer.shape[3] * len(features)) ** 0.5)
    return torch.cat(parts, dim=1)


def _batches(images: Iterable[np.ndarray]) -> Iterable[list[np.ndarray]]:
    batch: list[np.ndarray] = []
    for image in images:
        batch.append(image)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
