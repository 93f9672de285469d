"""Networks trained on drawn defects to tell deviations caused by defects from normal ones.

In the spirit of SuperSimpleNet (Rolih et al., 2024) and GLASS (Chen et al., ECCV 2024), but on deviations from OK
statistics. The deviations come from images that the statistics were not fitted to; otherwise the networks would learn
that familiar images are OK.
"""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.backbones.folding import pointwise
from anomalib_lite.detectors.feature_maps import blurred
from anomalib_lite.detectors.levels import size_of
from anomalib_lite.detectors.statistics import Modules
from anomalib_lite.scoring.maps import averaged_around, bilinear

HIDDEN = (128, 64)
POSITIONS = 64  # training positions per image: of a defect, or of an OK image
BATCH, RATE, DECAY, DROPOUT = 512, 4e-3, 1e-3, 0.1
RISE = 0.2  # share of the steps in which the learning rate rises
MOMENTA, SECOND_MOMENTUM, EPSILON = (0.85, 0.95), 0.999, 1e-8  # torch's defaults for OneCycleLR and AdamW
HARD = 16  # the 1/16 of an OK image's positions that deviates most counts as hard
NEAR = 4  # positions up to this many cells from a defect are not used
AROUND = 2  # radius in cells of the window over which magnitudes are averaged

Deviations = Sequence[Tensor]  # by feature map: (N, C, h, w), each on its own grid


class Rounding(nn.Identity):
    """Marks values or weights that a graph exported in int8 rounds; an identity everywhere else."""


class Networks(nn.Module):
    """Several networks side by side, whose mean logits are the map.

    Each is trained without one part of the images and defect families, to be evaluated on it. `channels` are those of
    the deviations, by name; `blur` is the sigma in px by which the logits are smoothed, for an image of 256 px.
    """

    def __init__(self, channels: Mapping[str, int], count: int = 3, epochs: int = 6, blur: float = 4.0) -> None:
        super().__init__()
        self.count, self.epochs, self.blur = count, epochs, blur
        self.widths = [c + 2 for c in channels.values()]
        first, second = HIDDEN
        self.first = Modules[nn.Conv2d](nn.Conv2d(width, count * first, 1, bias=False) for width in self.widths)
        self.bias = nn.Parameter(torch.zeros(count * first))
        self.second = nn.Conv2d(count * first, count * second, 1, groups=count)
        self.third = nn.Conv2d(count * second, count, 1, groups=count)
        self.inputs, self.parts, self.hidden, self.last, self.weights = (Rounding() for _ in range(5))
        self.requires_grad_(False)

    def forward(self, deviations: Deviations, number: int | None = None) -> Tensor:
        """Computes smoothed logits (B, 1, h, w) on the first feature map's grid, of one network or the mean of all."""
        grid = deviations[0].shape[-2:]
        sizes = [size_of(deviation) for deviation in deviations]
        inputs = {}  # descriptors and first-layer weights by grid size
        for size in dict.fromkeys(sizes):
            group = [k for k, n in enumerate(sizes) if n == size]
            values = descriptors([deviations[k].float() for k in group])
            weights = torch.cat([self.first[k].weight for k in group], 1)
            inputs[size] = self.inputs(values.contiguous(memory_format=torch.channels_last)), weights
        (weight, bias), (last, last_bias) = self.second.parameters(), self.third.parameters()
        logits = []
        for n in range(self.count) if number is None else (number,):
            a, b = (slice(n * size, (n + 1) * size) for size in HIDDEN)
            first, *rest = (  # resizing commutes with a linear layer; k = 0 is on the grid already
                _on_grid(self.parts(pointwise(values, self.weights(weights[a]), None if k else self.bias[a])), grid)
                for k, (values, weights) in enumerate(inputs.values())
            )
            for part in rest:
                first.add_(part)
            hidden = pointwise(self.hidden(first.relu_()), self.weights(weight[b]), bias[b]).relu_()
            logits.append(pointwise(self.last(hidden), self.weights(last[n, None]), last_bias[n, None]))
        return blurred((reduce(add, logits) / len(logits)).contiguous(), self.blur * min(grid) / 256)

    def learn(self, number: int, rows: Tensor, defective: Tensor, seed: int) -> None:
        """Trains one network on descriptors (N, D), standardised in place, of which some are defective (N,)."""
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            mean, scale = rows.mean(0), rows.std(0) + 1e-3
            layers = _train(rows.sub_(mean).div_(scale), defective.float(), self.epochs)
        with torch.no_grad():
            self._store(number, layers, mean, scale)

    def _store(self, number: int, layers: Sequence[nn.Linear], mean: Tensor, scale: Tensor) -> None:
        """Copies one network's layers into the stacked convolutions, with the standardisation folded into the first."""
        a, b = (slice(number * size, (number + 1) * size) for size in HIDDEN)
        weight = layers[0].weight / scale
        for conv, part in zip(self.first, weight.split(self.widths, 1), strict=True):
            conv.weight[a] = part[:, :, None, None]
        self.bias[a] = layers[0].bias - weight @ mean
        (middle, middle_bias), (last, last_bias) = self.second.parameters(), self.third.parameters()
        middle[b], middle_bias[b] = layers[1].weight[:, :, None, None], layers[1].bias
        last[number], last_bias[number] = layers[2].weight[0, :, None, None], layers[2].bias[0]


def descriptors(deviations: Deviations) -> Tensor:
    """Stacks deviations (B, C, h, w) of one grid, each as its asinh and magnitudes: (B, sum of C + 2, h, w)."""
    sizes = log_magnitudes(deviations).split(2, 1)
    return torch.cat([part for d, size in zip(deviations, sizes, strict=True) for part in (asinh(d), size)], 1)


def asinh(deviation: Tensor) -> Tensor:
    """Inverse hyperbolic sine; torch's takes three times as long on a CPU."""
    size, square = deviation.abs(), deviation.square()
    return deviation.sign() * torch.log1p(size + square / (1 + (square + 1).sqrt()))


def log_magnitudes(deviations: Deviations) -> Tensor:
    """Computes the log magnitude of each deviation (B, C, h, w) at a position and around it: (B, 2 K, h, w)."""
    size = torch.cat([deviation.square().mean(1, keepdim=True) for deviation in deviations], 1)
    return (torch.stack([size, averaged_around(size, AROUND)], 2).flatten(1, 2) + 0.1).log()


def sample_positions(deviations: Deviations, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples training positions of B images: descriptors (N, D), and whether each position is defective (N,).

    Of an OK image, half of the positions are drawn from those that deviate most, such as dust. Of an image with a
    defect, a quarter as many positions are drawn far from the defect; those close to it are not used, since deep
    features respond to the defect there. `mask` (B, 1, h, w), on the first feature map's grid, has each position's
    defective share.
    """
    grid = size_of(deviations[0])
    log_sizes = [log_magnitudes([deviation.float()]) for deviation in deviations]
    magnitudes = torch.stack([_on_grid(values, grid)[:, 0] for values in log_sizes]).sum(0).flatten(1)
    near = F.max_pool2d(mask, 2 * NEAR + 1, 1, NEAR) > 0
    rows, labels = [], []
    for image, (magnitude, covered, close) in enumerate(zip(magnitudes, mask.flatten(1), near.flatten(1), strict=True)):
        far = ((covered == 0) & ~close).nonzero()[:, 0]
        if close.any():
            defective = (covered > 0.4).nonzero()[:, 0]
            chosen = [_sample(defective, POSITIONS, generator), _sample(far, POSITIONS // 4, generator)]
        else:
            hard = magnitude.topk(max(1, len(magnitude) // HARD)).indices
            chosen = [_sample(far, POSITIONS // 2, generator), _sample(hard, POSITIONS // 2, generator)]
        positions, maps = torch.cat(chosen), zip(deviations, log_sizes, strict=True)
        rows.append(torch.cat([descriptors_at(d[image], values[image], positions, grid) for d, values in maps], 1))
        labels += [torch.full((len(chosen[0]),), int(close.any())), torch.zeros(len(chosen[1]), dtype=torch.long)]
    return torch.cat(rows), torch.cat(labels)


def _sample(positions: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return positions[torch.randperm(len(positions), generator=generator)[:count]]


def descriptors_at(deviation: Tensor, sizes: Tensor, positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Computes one image's `descriptors`, interpolated to the grid, at some positions (P,) only: (P, C + 2)."""
    if size_of(deviation) == grid:
        return torch.cat([asinh(deviation.flatten(1)[:, positions].float()), sizes.flatten(1)[:, positions]]).T
    values = torch.cat([asinh(deviation.float()), sizes])
    pairs = zip(size_of(values), grid, strict=True)
    vertical, horizontal = (torch.from_numpy(bilinear(*pair)).to(values) for pair in pairs)
    rows = torch.einsum("ph,chw->pcw", vertical[positions // grid[1]], values)
    return torch.einsum("pcw,pw->pc", rows, horizontal[positions % grid[1]])


def _on_grid(maps: Tensor, grid: Sequence[int]) -> Tensor:
    if maps.shape[-2:] == tuple(grid):
        return maps
    return F.interpolate(maps, size=tuple(grid), mode="bilinear", align_corners=False)


def _train(rows: Tensor, defective: Tensor, epochs: int) -> list[nn.Linear]:
    """Trains three linear layers; OK and defective positions have the same total weight."""
    first, second = HIDDEN
    layers = [nn.Linear(rows.shape[1], first), nn.Linear(first, second), nn.Linear(second, 1)]
    drop = nn.Dropout(DROPOUT)
    net = nn.Sequential(layers[0], nn.ReLU(), drop, layers[1], nn.ReLU(), drop, layers[2])
    share = defective.mean().clamp(1e-3, 1 - 1e-3)
    weight = torch.where(defective > 0, 0.5 / share, 0.5 / (1 - share))
    size = min(BATCH, len(rows))
    steps = len(rows) // size
    optimizer = OneCycle(list(net.parameters()), epochs * steps + 1)
    for _ in range(epochs):
        for part in torch.randperm(len(rows))[: steps * size].view(steps, size):
            losses = F.binary_cross_entropy_with_logits(net(rows[part])[:, 0], defective[part], reduction="none")
            optimizer.step(torch.autograd.grad((losses * weight[part]).mean(), optimizer.parameters))
    return layers


class OneCycle:
    """AdamW with a one-cycle schedule, bit-identical to `torch.optim`, which takes 145 MB and seconds to import."""

    def __init__(self, parameters: Sequence[Tensor], total: int) -> None:
        self.parameters, self.total, self.count = parameters, total, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        rate, momentum = self._schedule()
        self.count += 1
        size, root = rate / (1 - momentum**self.count), (1 - SECOND_MOMENTUM**self.count) ** 0.5
        for parameter, gradient, (mean, square) in zip(self.parameters, gradients, self.moments, strict=True):
            parameter.mul_(1 - rate * DECAY)
            mean.lerp_(gradient, 1 - momentum)
            square.mul_(SECOND_MOMENTUM).addcmul_(gradient, gradient, value=1 - SECOND_MOMENTUM)
            parameter.addcdiv_(mean, (square.sqrt() / root).add_(EPSILON), value=-size)

    def _schedule(self) -> tuple[float, float]:
        top = RISE * self.total - 1
        risen = self.count <= top
        share = self.count / top if risen else (self.count - top) / (self.total - 1 - top)
        first, (low, high) = RATE / 25, MOMENTA
        rates, momenta = ((first, RATE), (high, low)) if risen else ((RATE, first / 1e4), (low, high))
        cosine = math.cos(math.pi * share) + 1
        rate, momentum = (end + (start - end) / 2 * cosine for start, end in (rates, momenta))
        return rate, momentum
