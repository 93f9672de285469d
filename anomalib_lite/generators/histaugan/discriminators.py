"""What the encoders and the decoder are trained against.

Neither has instance norm: the official code names it for the content discriminator, but builds it where the literal
'norm' equals 'Instance', that is never, so the published results come without. It would also take the content's channel
means away, the plainest trace of a domain that the content discriminator should find.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from anomalib_lite.generators.histaugan.layers import conv


class ImageDiscriminator(nn.Module):
    """Images (B, 3, H, W) -> real or fake logits (B, 1, h, w) and domain logits (B, D).

    crop: (height, width) that it is trained on. Stride-2 layers double the width, but for the last; small crops get
    fewer, down to one pixel. The domain head spans the floored size of what is left, as in the official code, and is
    averaged; the real or fake head is not padded, as it is there: padding only adds constant logits of zero, and the
    more of them, the smaller the crop.
    """

    def __init__(self, domains: int, crop: tuple[int, int], channels: int, layers: int) -> None:
        super().__init__()
        layers = min(layers, int(math.log2(min(crop))))
        widths = [3, *(channels * 2 ** min(i, layers - 2) for i in range(layers))]
        body = [(conv(a, b, 3, 2, 1), nn.LeakyReLU()) for a, b in pairwise(widths)]
        self.body = nn.Sequential(*(module for pair in body for module in pair))
        self.real = nn.Conv2d(widths[-1], 1, 1, bias=False)
        span = (crop[0] // 2**layers, crop[1] // 2**layers)
        self.domain = nn.Conv2d(widths[-1], domains, span, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(image)
        return self.real(features), self.domain(features).mean(dim=(2, 3))


class ContentDiscriminator(nn.Module):
    """Content (B, channels, h, w) -> domain logits (B, D).

    Up to three 7 x 7 stride-2 layers, as many as leave room for the 4 x 4 one: three for contents from 54 x 54 (where
    exactly one position is left), fewer for smaller ones. Positions that remain are averaged.
    """

    def __init__(self, domains: int, channels: int, content: tuple[int, int]) -> None:
        super().__init__()
        size, body = content, []
        for _ in range(3):
            smaller = ((size[0] - 5) // 2 + 1, (size[1] - 5) // 2 + 1)
            if min(smaller) < 4:
                break
            body += [conv(channels, channels, 7, 2, 1), nn.LeakyReLU()]
            size = smaller
        last = (min(4, size[0]), min(4, size[1]))
        body += [nn.Conv2d(channels, channels, last), nn.LeakyReLU(), nn.Conv2d(channels, domains, 1)]
        self.body = nn.Sequential(*body)

    def forward(self, content: Tensor) -> Tensor:
        return self.body(content).mean(dim=(2, 3))
