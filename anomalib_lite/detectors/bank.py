"""A bank of remembered OK patches, and how far features are from the nearest of them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.detectors.coreset import nearest, nearest_near, nearest_several
from anomalib_lite.detectors.levels import size_of
from anomalib_lite.detectors.statistics import Fitted


class Bank(Fitted):
    """Features (B, C, h, w) -> the distance of each place from the nearest remembered patch, (B, 1, h, w).

    cosine: compares directions by 1 - cosine; else Euclidean distances. radius: compares a place with patches from up
    to so many places beside it alone (RAD: Zhang, Li, Henderson, Aragon-Camarasa, Long, "Is Training Necessary for
    Anomaly Detection?", 2026); None: from anywhere.

    Attributes:
        patches: (M, C), or with a radius (h * w, images, C).
        around: (M, b), the numbers of each patch's nearest, itself first, for PatchCore's weight; else empty.
        spread: (M,) or (h * w, images), each patch's mean distance from its own neighbours, which is taken off its
            distance from others (LDKNN, in Lyu, Mo, Wong, "REB: Reducing Biases in Representation for Industrial
            Anomaly Detection", 2024); else empty.
    """

    patches: Tensor
    around: Tensor
    spread: Tensor

    def __init__(self, cosine: bool = False, radius: int | None = None) -> None:
        super().__init__()
        self.cosine, self.radius = cosine, radius
        self.register_buffer("patches", torch.empty(0))
        self.register_buffer("around", torch.empty(0, dtype=torch.long))
        self.register_buffer("spread", torch.empty(0))

    def remember(self, patches: Tensor, candidates: Tensor, density: int = 0, reweight: int = 0) -> None:
        """patches: chosen from the candidates (N, C), or all of them where places count. Directions are normalised."""
        self.patches = patches
        if reweight:
            self.around = nearest_several(patches, patches, reweight)[1]
        if density and self.radius is None:
            self.spread = self._unit(nearest_several(patches, candidates.to(patches), density + 1)[0])[:, 1:].mean(1)
        elif density:  # a place's own patches are each other's neighbours
            own = torch.cat([torch.cdist(part, part) for part in patches.split(64)]).sort(2).values
            self.spread = self._unit(own)[:, :, 1 : density + 1].mean(2)

    def forward(self, features: Tensor) -> Tensor:
        features = F.normalize(features, dim=1) if self.cosine else features
        rows = features.flatten(2).transpose(1, 2).flatten(0, 1)
        if self.radius is None:
            distance, index = nearest(rows, self.patches)
        else:
            distance, index = nearest_near(features, self.patches, self.radius)
        map = self._unit(distance)
        if self.spread.numel():  # nearer than the remembered patches are to each other is no anomaly
            map = (map - self.spread.flatten()[index]).clamp_min(0)
        map = map.view(features.shape[0], 1, *size_of(features))
        return map * self._weight(rows, map, index) if self.around.numel() else map

    def _unit(self, distance: Tensor) -> Tensor:
        """Of Euclidean distances; those of directions are 1 - cosine."""
        return distance.square() / 2 if self.cosine else distance

    def _weight(self, rows: Tensor, map: Tensor, index: Tensor) -> Tensor:
        """Of each image (B, 1, 1, 1): small where the farthest patch's neighbour lies among many alike."""
        images = map.shape[0]
        worst = map.view(images, -1).argmax(1, keepdim=True)
        patch = rows.view(images, -1, rows.shape[1])[torch.arange(images, device=rows.device), worst[:, 0]]
        around = self.around[index.view(images, -1).gather(1, worst)[:, 0]]
        distances = torch.linalg.vector_norm(patch[:, None] - self.patches[around], dim=2)
        return (1 - distances.softmax(1)[:, 0]).view(-1, 1, 1, 1)
