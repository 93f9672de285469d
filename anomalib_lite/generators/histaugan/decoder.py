"""Content, attribute and domain -> image."""

from __future__ import annotations

from torch import Tensor, nn

from anomalib_lite.generators.histaugan.layers import ResidualBlock, append_vector, conv, upsampling


class Decoder(nn.Module):
    """(B, 4 * channels, h, w), z (B, attributes), one-hot (B, D) -> (B, 3, 4h, 4w) in [-1, 1].

    z is appended again before each of the last three layers; the one-hot once.
    """

    def __init__(self, domains: int, channels: int, attributes: int, blocks: int) -> None:
        super().__init__()
        wide = 4 * channels
        mixed = wide + domains + attributes
        half = (mixed + attributes) // 2
        quarter = (half + attributes) // 2
        self.shared = ResidualBlock(wide)
        self.mixing = nn.Sequential(*(ResidualBlock(mixed) for _ in range(blocks)))
        self.up1 = upsampling(mixed + attributes, half)
        self.up2 = upsampling(half + attributes, quarter)
        self.colours = nn.Sequential(conv(quarter + attributes, 3, 1), nn.Tanh())

    def forward(self, content: Tensor, z: Tensor, domain: Tensor) -> Tensor:
        features = self.mixing(append_vector(self.shared(content), domain, z))
        for layer in (self.up1, self.up2, self.colours):
            features = layer(append_vector(features, z))
        return features
