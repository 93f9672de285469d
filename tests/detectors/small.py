"""A small network and small pictures for the detectors' tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import nn

from anomalib_lite.backbones import Backbone
from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import OK, Sample
from tests.made import write_image

SIZE = (32, 48)


class Net(nn.Module):
    """Two levels of stride 4 and 8, with batch normalisation, which tells training from evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(image)
        return [first, self.second(first)]


@cache
def _weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().state_dict()


def backbone(weights: str = "trained") -> Backbone:
    """The same network each time; `weights="none"` gives an untrained one."""
    net = Net()
    if weights != "none":
        net.load_state_dict(_weights())
    return Backbone(net, [0.5] * 3, [0.25] * 3)


def images(folder: Path, count: int = 12) -> ImageSet:
    return ImageSet([Sample(write_image(folder / f"{i}.png", i), OK) for i in range(count)], SIZE)
