"""Reverse distillation: a decoder reconstructs the teacher's features from a bottleneck trained on OK images."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.detectors.distillation import Distillation
from anomalib_lite.detectors.model import MakeBackbone, MakeOptimizer, weighted_mean
from anomalib_lite.errors import UserError

WIDE = 512  # blocks with more channels are bottleneck blocks, as in (Wide)ResNet50


class ReverseDistillation(Distillation):
    """A decoder learns to reconstruct a frozen encoder's features; where it fails, the image is anomalous.

    Deng, Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022; the paper's method has
    `gaussian` None and `fusion` sum. The student never sees the image, only the bottleneck's output. Works with any
    convolutional backbone whose strides grow by powers of two. Options: `settings.detectors.ReverseDistillation`.
    """

    learners = ("bottleneck", "decoder")

    def __init__(self, backbone: MakeBackbone, optimizer: MakeOptimizer, blocks: int = 2, **settings: Any) -> None:
        super().__init__(backbone, optimizer, **settings)
        channels, strides = self.teacher.channels, self.teacher.strides
        self.bottleneck = Bottleneck(channels, strides, blocks)
        self.decoder = Decoder(channels, strides, blocks)
        self.prepare_modules()

    def answers(self, features: list[Tensor], image: Tensor) -> list[Tensor]:
        return self.decoder(self.bottleneck(features), [f.shape[-2:] for f in features])

    def loss(self, targets: list[Tensor], answers: list[Tensor], weight: Tensor) -> Tensor:
        """Computes 1 - cosine of each image's flattened levels, summed over the levels, as in the authors' code."""
        pairs = zip(targets, answers, strict=True)
        losses = [1 - F.cosine_similarity(t.flatten(1), a.flatten(1), dim=1) for t, a in pairs]
        return torch.stack([weighted_mean(loss, weight) for loss in losses]).sum()


class Block(nn.Module):
    """A residual block (He et al., CVPR 2016) that scales the grid by 0.5, 1 or 2.

    Above WIDE channels, the 3 x 3 convolution uses half of them, between two 1 x 1 convolutions, as in WideResNet50;
    otherwise there are two 3 x 3 convolutions.
    """

    def __init__(self, inside: int, outside: int, scale: float = 1) -> None:
        super().__init__()
        if max(inside, outside) > WIDE:
            narrow = outside // 2
            steps = [_conv(inside, narrow, 1), _resize(narrow, narrow, scale), _conv(narrow, outside, 1, last=True)]
        else:
            steps = [_resize(inside, outside, scale), _conv(outside, outside, 3, last=True)]
        self.residual = nn.Sequential(*steps)
        same = inside == outside and scale == 1
        self.shortcut = nn.Identity() if same else _resize(inside, outside, scale, shortcut=True)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.activation(self.residual(features) + self.shortcut(features))


class Bottleneck(nn.Module):
    """Maps levels (B, C_l, H / s_l, W / s_l) to (B, 2 C, H / 2 s, W / 2 s), with C and s of the coarsest level.

    Multi-scale feature fusion: strided convolutions bring each level to the coarsest level's grid and channels.
    One-class embedding: residual blocks halve the grid once more (Deng and Li, CVPR 2022, section 3.3).
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], blocks: int = 2) -> None:
        super().__init__()
        coarsest = channels[-1]
        finer = zip(channels[:-1], strides[:-1], strict=True)
        self.fusion = nn.ModuleList(_descent(width, coarsest, _halvings(s, strides[-1])) for width, s in finer)
        self.embedding = _blocks(coarsest * len(channels), 2 * coarsest, [0.5], blocks)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        *fine, coarsest = features
        fused = [descend(feature) for descend, feature in zip(self.fusion, fine, strict=True)]
        return self.embedding(torch.cat([*fused, coarsest], dim=1))


class Decoder(nn.Module):
    """Maps the bottleneck's output to levels of the encoder's channels and strides, coarsest first.

    Unlike in the paper, whose decoder ends in a ReLU, each level ends in a 1 x 1 convolution, because features of some
    teachers (such as EfficientNet) can be negative.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], blocks: int = 2) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        inside, stride = 2 * channels[-1], 2 * strides[-1]
        for width, target in zip(reversed(channels), reversed(strides), strict=True):
            scales = [2.0] * _halvings(target, stride) or [1.0]
            self.stages.append(_blocks(inside, width, scales, blocks))
            inside, stride = width, target
        self.heads = nn.ModuleList(nn.Conv2d(width, width, 1) for width in reversed(channels))

    def forward(self, embedded: Tensor, sizes: Sequence[torch.Size]) -> list[Tensor]:
        """Decodes to levels of these sizes (height, width), finest first; doubled grids are cropped to odd sizes."""
        levels = []
        for stage, head, (height, width) in zip(self.stages, self.heads, reversed(sizes), strict=True):
            embedded = stage(embedded)[..., :height, :width]
            levels.append(head(embedded))
        return levels[::-1]


def _blocks(inside: int, outside: int, scales: Sequence[float], count: int) -> nn.Sequential:
    """Builds at least `count` residual blocks; the first ones change the grid by `scales`."""
    scales = [*scales, *[1.0] * (count - len(scales))]
    return nn.Sequential(*(Block(inside if k == 0 else outside, outside, s) for k, s in enumerate(scales)))


def _descent(inside: int, outside: int, halvings: int) -> nn.Sequential:
    """Builds convolutions that halve the grid; the channels double up to `outside`, which the last one outputs."""
    widths = [inside, *(min(inside * 2**k, outside) for k in range(1, halvings)), outside]
    return nn.Sequential(*(_resize(a, b, 0.5 if halvings else 1) for a, b in pairwise(widths)))


def _resize(inside: int, outside: int, scale: float, shortcut: bool = False) -> nn.Sequential:
    """Builds the convolution that scales the grid; a shortcut uses the smallest kernel."""
    if scale == 2:
        layers = [nn.ConvTranspose2d(inside, outside, 2, 2, bias=False), nn.BatchNorm2d(outside)]
        return nn.Sequential(*layers, *([] if shortcut else [nn.ReLU(inplace=True)]))
    return _conv(inside, outside, 1 if shortcut else 3, stride=2 if scale == 0.5 else 1, last=shortcut)


def _conv(inside: int, outside: int, kernel: int, stride: int = 1, last: bool = False) -> nn.Sequential:
    layers = [nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outside)]
    return nn.Sequential(*layers, *([] if last else [nn.ReLU(inplace=True)]))


def _halvings(fine: int, coarse: int) -> int:
    """Returns how often a grid of stride `fine` must be halved to get stride `coarse`."""
    halvings = math.log2(coarse / fine)
    if halvings < 0 or not halvings.is_integer():
        raise UserError(
            f"Reverse distillation needs layers whose strides grow by powers of two, not {fine} and then {coarse} px: "
            "choose other layers with backbone.layers."
        )
    return int(halvings)
