"""Dinomaly: a decoder with linear attention reconstructs a frozen encoder's features from a noisy bottleneck."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.detectors.distillation import Distillation
from anomalib_lite.detectors.levels import grid_of, half_squared_distance, size_of, stack
from anomalib_lite.detectors.model import MakeBackbone, MakeOptimizer, weighted_mean

HEAD = 64  # channels of one attention head


class Dinomaly(Distillation):
    """A decoder learns to reconstruct groups of a frozen encoder's layers; where it fails, the image is anomalous.

    Guo, Lu, Zhang, Chen, Li, Liao, "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly
    Detection", CVPR 2025. Four measures keep the decoder from reconstructing defects too: dropout in the bottleneck,
    attention that cannot focus, groups of layers reconstructed as a whole, and smaller gradients at well reconstructed
    positions.

    If all layers have the same width, as in a vision transformer, this is the paper's method, on patch tokens only.
    Layers of other backbones are resampled to one grid and stacked, and linear heads reconstruct them. Options:
    `settings.detectors.Dinomaly`.
    """

    learners = ("bottleneck", "decoder", "heads")

    def __init__(
        self,
        backbone: MakeBackbone,
        optimizer: MakeOptimizer,
        groups: int = 2,
        depth: int = 4,
        stride: int | None = None,
        dropout: float = 0.2,
        discard: float = 0.9,
        easy: float = 0.1,
        ramp: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, optimizer, **{"seed": 0} | settings)
        channels = self.teacher.channels
        self.same_width = len(set(channels)) == 1
        inside = channels[0] if self.same_width else sum(channels)
        width = HEAD * -(-inside // HEAD)
        self.groups, self.stride = grouped(len(channels), groups), stride
        self.blocks = grouped(depth, len(self.groups))
        self.discard, self.easy, self.ramp, self.total = discard, easy, ramp, 1
        first, second = nn.Linear(inside, 4 * width), nn.Linear(4 * width, width)
        drops = [nn.Dropout(dropout) for _ in range(3)]  # the noise
        self.bottleneck = nn.Sequential(drops[0], first, nn.GELU(), drops[1], second, drops[2])
        self.decoder = nn.ModuleList(Block(width) for _ in range(depth))
        outside = [channels[0] if self.same_width else sum(channels[i] for i in group) for group in self.groups]
        self.heads = nn.ModuleList(nn.Identity() if c == width else nn.Linear(width, c) for c in outside)
        for module in (m for name in self.learners for m in getattr(self, name).modules() if isinstance(m, nn.Linear)):
            nn.init.trunc_normal_(module.weight, std=0.01, a=-0.03, b=0.03)
            nn.init.zeros_(module.bias)
        self.prepare_modules()

    def features(self, image: Tensor) -> list[Tensor]:
        features = self.teacher(image)
        grid = grid_of(image, self.stride) if self.stride else size_of(features[0])
        return [stack([feature], grid) for feature in features]

    def targets(self, features: list[Tensor]) -> list[Tensor]:
        return [self._merge([features[i] for i in group]) for group in self.groups]

    def answers(self, features: list[Tensor], image: Tensor) -> list[Tensor]:
        tokens = self.bottleneck(self._merge(features).flatten(2).transpose(1, 2))
        outputs = []
        for block in self.decoder:
            outputs.append(tokens := block(tokens))
        outputs.reverse()  # the last blocks reconstruct the first layers
        means = [torch.stack([outputs[i] for i in blocks]).mean(0) for blocks in self.blocks]
        maps = [head(mean).transpose(1, 2) for head, mean in zip(self.heads, means, strict=True)]
        return [m.reshape(*m.shape[:2], *features[0].shape[2:]) for m in maps]

    def loss(self, targets: list[Tensor], answers: list[Tensor], weight: Tensor) -> Tensor:
        """Computes 1 - cosine of each image's flattened groups, averaged over the groups."""
        rate = self.discard * min(1.0, int(self.step) / max(1.0, self.ramp * self.total))
        losses = []
        for target, answer in zip(targets, answers, strict=True):
            mined = hard_mined(target, answer, rate, self.easy)
            losses.append(weighted_mean(1 - F.cosine_similarity(target.flatten(1), mined.flatten(1)), weight))
        return torch.stack(losses).mean()

    def configure_optimizers(self, total_steps: int) -> Any:
        self.total = total_steps
        return super().configure_optimizers(total_steps)

    def _merge(self, features: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(features)).mean(0) if self.same_width else torch.cat(list(features), 1)


def hard_mined(target: Tensor, answer: Tensor, rate: float, easy: float) -> Tensor:
    """Scales the gradient of the answer (B, C, h, w) by `easy` at the share `rate` of best answered positions."""
    with torch.no_grad():
        distance = half_squared_distance(target, answer)
        hard = max(1, int(distance.numel() * (1 - rate)))
        scale = torch.where(distance < distance.flatten().topk(hard).values[-1], easy, 1.0)
    return answer.detach() + scale * (answer - answer.detach())


def grouped(count: int, groups: int) -> list[list[int]]:
    """Splits the numbers 0 to count - 1 into at most `groups` consecutive groups of nearly equal size."""
    groups = min(groups, count)
    return [list(range(k * count // groups, (k + 1) * count // groups)) for k in range(groups)]


class Block(nn.Module):
    """A transformer block for tokens (B, N, C), whose attention has elu + 1 instead of a softmax: linear in N.

    Katharopoulos, Vyas, Pappas, Fleuret, "Transformers are RNNs", ICML 2020.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.behind = nn.LayerNorm(width, eps=1e-8), nn.LayerNorm(width, eps=1e-8)
        self.heads = width // HEAD
        self.queries, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.queries(self.before(tokens)).unflatten(2, (3, self.heads, HEAD)).permute(2, 0, 3, 1, 4)
        query, key, value = parts
        query, key = F.elu(query) + 1, F.elu(key) + 1
        total = query @ key.sum(-2).unsqueeze(-1)
        attended = query @ (key.transpose(-1, -2) @ value) / total
        tokens = tokens + self.project(attended.transpose(1, 2).flatten(2))
        return tokens + self.inner(self.behind(tokens))


class StableAdamW(torch.optim.Optimizer):
    """AdamW with AMSGrad, whose step shrinks where a gradient is larger than earlier ones suggest.

    Wortsman, Dettmers, Zettlemoyer, Morcos, Farhadi, Schmidt, "Stable and low-precision training for large-scale
    vision-language models", NeurIPS 2023, algorithm 2, with Dinomaly's parameters. Neither torch nor timm has it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-10,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = 0
            state |= {name: torch.zeros_like(parameter) for name in ("mean", "square", "largest")}
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        torch.maximum(state["largest"], state["square"], out=state["largest"])
        scale = (state["largest"] / (1 - second ** state["step"])).sqrt() + group["eps"]
        excess = (gradient / scale).square().mean().sqrt().clamp_min(1)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(state["mean"] / scale * (group["lr"] / (1 - first ** state["step"])) / excess)
