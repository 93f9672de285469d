"""Image -> content, the structure that domains share; image and domain -> attribute, colour and light."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from anomalib_lite.generators.histaugan.layers import ResidualBlock, append_vector, conv


class ContentEncoder(nn.Sequential):
    """(B, 3, H, W) in [-1, 1] -> (B, 4 * channels, H/4, W/4).

    noise: adds N(0, 1) to the content, which keeps the encoder from hiding in it what the attribute should carry; given
    in training alone.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        wide = 4 * channels
        super().__init__(
            conv(3, channels, 7, padding=3),
            nn.LeakyReLU(),
            *_halving(channels, 2 * channels),
            *_halving(2 * channels, wide),
            *(ResidualBlock(wide) for _ in range(blocks)),
        )

    def forward(self, image: Tensor, noise: torch.Generator | None = None) -> Tensor:
        content = super().forward(image)
        if noise is None:
            return content
        return content + torch.randn(content.shape, generator=noise, device=content.device, dtype=content.dtype)


def _halving(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    return conv(n_in, n_out, 3, stride=2, padding=1), nn.InstanceNorm2d(n_out), nn.ReLU()


class AttributeEncoder(nn.Module):
    """(B, 3, H, W) in [-1, 1] and the domain's one-hot (B, D) -> mean and log-variance, each (B, attributes).

    Without normalisation, which would take colour and light away.
    """

    def __init__(self, domains: int, channels: int, attributes: int) -> None:
        super().__init__()
        widths = [channels * factor for factor in (1, 2, 3, 4)]
        self.body = nn.Sequential(
            conv(3 + domains, channels, 4, stride=2, padding=1),
            *(_PooledBlock(a, b) for a, b in pairwise(widths)),
            nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.mean = nn.Linear(widths[-1], attributes)
        self.log_variance = nn.Linear(widths[-1], attributes)

    def forward(self, image: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(append_vector(image, domain))
        return self.mean(features), self.log_variance(features)


class _PooledBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LeakyReLU(0.2),
            conv(n_in, n_in, 3, padding=1),
            nn.LeakyReLU(0.2),
            conv(n_in, n_out, 3, padding=1),
            nn.AvgPool2d(2),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), conv(n_in, n_out, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.body(features) + self.shortcut(features)
