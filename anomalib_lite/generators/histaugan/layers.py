"""The layers that the networks share, as in DRIT."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(n_in: int, n_out: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride, padding, padding_mode="reflect")


class ResidualBlock(nn.Sequential):
    """Two 3 x 3 convolutions with instance norm, added to their input; nothing after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            conv(channels, channels, 3, padding=1),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            conv(channels, channels, 3, padding=1),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + super().forward(features)


def upsampling(n_in: int, n_out: int) -> nn.Sequential:
    """Twice the size by a transposed convolution; layer norm over an image's channels and pixels, which keeps the mean
    and the variance of a channel, and with them colour and light, free to follow the attributes.
    """
    up = nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(up, nn.GroupNorm(1, n_out), nn.ReLU())


def append_vector(features: Tensor, *vectors: Tensor) -> Tensor:
    """(B, C, H, W) and vectors (B, V) -> (B, C + V, H, W), each vector repeated at all positions."""
    size = features.shape[-2:]
    tiled = [v.to(features.dtype)[:, :, None, None].expand(-1, -1, *size) for v in vectors]
    return torch.cat([features, *tiled], dim=1)


def initialise(module: nn.Module, std: float | None) -> None:
    """Convolutions' weights from N(0, std^2); None: from He's distribution for their own width.

    A fixed small std, as DRIT has it, suits its 64 channels and more. A narrow attribute encoder, which has no
    normalisation, would let next to nothing through, and answer the same to every image for many epochs.
    """
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return
    if std is None:
        nn.init.kaiming_normal_(module.weight, a=0.2)
    else:
        nn.init.normal_(module.weight, 0.0, std)
