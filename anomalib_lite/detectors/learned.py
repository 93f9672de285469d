"""Evidence that small networks learn from drawn defects: which deviations from OK are a defect, and which are not.

In the spirit of SuperSimpleNet (Rolih et al., 2024) and GLASS (Chen et al., ECCV 2024), but on deviations from OK
images, and on the deviations of images that the statistics have not seen: else it would learn that OK is what was
seen before.
"""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.backbones.folding import pointwise
from anomalib_lite.detectors.levels import size_of
from anomalib_lite.detectors.looks import blurred
from anomalib_lite.detectors.statistics import Modules
from anomalib_lite.scoring.separable import averaged_around, bilinear

HIDDEN = (128, 64)
PLACES = 64  # places of an image that are learned from: of a defect, and of what is OK
BATCH, RATE, DECAY, DROPOUT = 512, 4e-3, 1e-3, 0.1
RISE = 0.2  # share of the steps
MOMENTA, SQUARES, TINY = (0.85, 0.95), 0.999, 1e-8  # torch's defaults
HARD = 16  # of an OK image, one in so many places counts as hard: those that deviate most
NEAR = 4  # cells from a defect within which a place is close to it
AROUND = 2  # cells to either side over which the size of the deviations is averaged

Deviations = Sequence[Tensor]  # by look: (N, C, h, w), each on its own grid


class Rounding(nn.Identity):
    """Where an exported graph of int8 rounds values, or weights; all others leave them as they are."""


class Networks(nn.Module):
    """Several networks beside each other; the mean of their logits is the map.

    Args:
        channels: Of the deviations, by look.
        count: Networks. Each leaves out one part of the images and of the kinds of defects, by which it is judged.
        epochs: Over the places that are learned from.
        blur: Px over which the logits are smoothed, at an image of 256 px.
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
        self.looks, self.parts, self.hidden, self.last, self.weights = (Rounding() for _ in range(5))
        self.requires_grad_(False)

    def forward(self, deviations: Deviations, number: int | None = None) -> Tensor:
        """Deviations of B images -> smoothed logits (B, 1, h, w) on the first look's grid.

        number: the network that is asked; None: all.
        """
        grid = deviations[0].shape[-2:]
        sizes = [size_of(deviation) for deviation in deviations]
        known = {}  # by size, what is described of all looks of that size, and the first layer's weights for it
        for size in dict.fromkeys(sizes):
            own = [k for k, one in enumerate(sizes) if one == size]
            looks = described([deviations[k].float() for k in own])
            weights = torch.cat([self.first[k].weight for k in own], 1)
            known[size] = self.looks(looks.contiguous(memory_format=torch.channels_last)), weights
        (weight, bias), (last, last_bias) = self.second.parameters(), self.third.parameters()
        logits = []
        for one in range(self.count) if number is None else (number,):
            a, b = (slice(one * size, (one + 1) * size) for size in HIDDEN)
            first, *others = (  # both are linear; the first look is on the grid
                _on_grid(self.parts(pointwise(looks, self.weights(own[a]), None if k else self.bias[a])), grid)
                for k, (looks, own) in enumerate(known.values())
            )
            for part in others:
                first.add_(part)
            hidden = pointwise(self.hidden(first.relu_()), self.weights(weight[b]), bias[b]).relu_()
            logits.append(pointwise(self.last(hidden), self.weights(last[one, None]), last_bias[one, None]))
        return blurred((reduce(add, logits) / len(logits)).contiguous(), self.blur * min(grid) / 256)

    def learn(self, number: int, rows: Tensor, defective: Tensor, seed: int) -> None:
        """Trains one network on the places' descriptions (N, D), standardised in place; some are defective (N,)."""
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            mean, scale = rows.mean(0), rows.std(0) + 1e-3
            layers = _trained(rows.sub_(mean).div_(scale), defective.float(), self.epochs)
        with torch.no_grad():
            self._keep(number, layers, mean, scale)

    def _keep(self, number: int, layers: Sequence[nn.Linear], mean: Tensor, scale: Tensor) -> None:
        """One network's layers into their places, the standardisation of its inputs into its first layer."""
        a, b = (slice(number * size, (number + 1) * size) for size in HIDDEN)
        weight = layers[0].weight / scale
        for conv, part in zip(self.first, weight.split(self.widths, 1), strict=True):
            conv.weight[a] = part[:, :, None, None]
        self.bias[a] = layers[0].bias - weight @ mean
        (middle, middle_bias), (last, last_bias) = self.second.parameters(), self.third.parameters()
        middle[b], middle_bias[b] = layers[1].weight[:, :, None, None], layers[1].bias
        last[number], last_bias[number] = layers[2].weight[0, :, None, None], layers[2].bias[0]


def described(deviations: Deviations) -> Tensor:
    """Deviations (B, C, h, w) of one grid -> (B, sum of C + 2, h, w): each tamed, and its sizes (see `log_sizes`)."""
    sizes = log_sizes(deviations).split(2, 1)
    return torch.cat([part for d, own in zip(deviations, sizes, strict=True) for part in (tamed(d), own)], 1)


def tamed(deviation: Tensor) -> Tensor:
    """The inverse hyperbolic sine; torch's own takes three times as long on a CPU."""
    size, square = deviation.abs(), deviation.square()
    return deviation.sign() * torch.log1p(size + square / (1 + (square + 1).sqrt()))


def log_sizes(deviations: Deviations) -> Tensor:
    """Deviations (B, C, h, w) of one grid -> (B, 2 K, h, w): of each, its logarithmic size at a place and around it."""
    size = torch.cat([deviation.square().mean(1, keepdim=True) for deviation in deviations], 1)
    return (torch.stack([size, averaged_around(size, AROUND)], 2).flatten(1, 2) + 0.1).log()


def drawn_places(deviations: Deviations, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Descriptions (N, D) of some places of B images, and whether each is defective (N,).

    Half of an OK image's places are drawn from those that deviate most, such as dust. Of an image with a defect, places
    far from it are taken, too, but a quarter as many; what lies close to it is neither, since deep features see the
    defect from there.

    Args:
        deviations: Of the images.
        mask: (B, 1, h, w) on the first look's grid, the share of each place that is defective.
        generator: Draws the places.
    """
    grid = size_of(deviations[0])
    sizes = [log_sizes([deviation.float()]) for deviation in deviations]
    size = torch.stack([_on_grid(own, grid)[:, 0] for own in sizes]).sum(0).flatten(1)
    near = F.max_pool2d(mask, 2 * NEAR + 1, 1, NEAR) > 0
    taken, labels = [], []
    for image, (large, covered, close) in enumerate(zip(size, mask.flatten(1), near.flatten(1), strict=True)):
        far = ((covered == 0) & ~close).nonzero()[:, 0]
        if close.any():
            defective = (covered > 0.4).nonzero()[:, 0]
            chosen = [_some(defective, PLACES, generator), _some(far, PLACES // 4, generator)]
        else:
            hard = large.topk(max(1, len(large) // HARD)).indices
            chosen = [_some(far, PLACES // 2, generator), _some(hard, PLACES // 2, generator)]
        places, looks = torch.cat(chosen), zip(deviations, sizes, strict=True)
        taken.append(torch.cat([described_at(d[image], own[image], places, grid) for d, own in looks], 1))
        labels += [torch.full((len(chosen[0]),), int(close.any())), torch.zeros(len(chosen[1]), dtype=torch.long)]
    return torch.cat(taken), torch.cat(labels)


def _some(places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return places[torch.randperm(len(places), generator=generator)[:count]]


def described_at(deviation: Tensor, sizes: Tensor, places: Tensor, grid: tuple[int, int]) -> Tensor:
    """Of an image, what `described` and then `_on_grid` give at some places (P,) of the grid: (P, C + 2)."""
    if size_of(deviation) == grid:
        return torch.cat([tamed(deviation.flatten(1)[:, places].float()), sizes.flatten(1)[:, places]]).T
    look = torch.cat([tamed(deviation.float()), sizes])
    pairs = zip(size_of(look), grid, strict=True)
    down, across = (torch.from_numpy(bilinear(*pair)).to(look) for pair in pairs)
    rows = torch.einsum("ph,chw->pcw", down[places // grid[1]], look)
    return torch.einsum("pcw,pw->pc", rows, across[places % grid[1]])


def _on_grid(picture: Tensor, grid: Sequence[int]) -> Tensor:
    if picture.shape[-2:] == tuple(grid):
        return picture
    return F.interpolate(picture, size=tuple(grid), mode="bilinear", align_corners=False)


def _trained(rows: Tensor, defective: Tensor, epochs: int) -> list[nn.Linear]:
    """Three linear layers; OK and defective places weigh the same in sum."""
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
    """AdamW with the rate and the first momentum of one cycle, to the bit as `torch.optim` has them: its optimizers
    load torch's compiler, which takes seconds and 145 MB.
    """

    def __init__(self, parameters: Sequence[Tensor], total: int) -> None:
        self.parameters, self.total, self.count = parameters, total, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        rate, momentum = self._now()
        self.count += 1
        size, root = rate / (1 - momentum**self.count), (1 - SQUARES**self.count) ** 0.5
        for own, gradient, (mean, square) in zip(self.parameters, gradients, self.moments, strict=True):
            own.mul_(1 - rate * DECAY)
            mean.lerp_(gradient, 1 - momentum)
            square.mul_(SQUARES).addcmul_(gradient, gradient, value=1 - SQUARES)
            own.addcdiv_(mean, (square.sqrt() / root).add_(TINY), value=-size)

    def _now(self) -> tuple[float, float]:
        top = RISE * self.total - 1
        risen = self.count <= top
        share = self.count / top if risen else (self.count - top) / (self.total - 1 - top)
        first, (low, high) = RATE / 25, MOMENTA
        rates, momenta = ((first, RATE), (high, low)) if risen else ((RATE, first / 1e4), (low, high))
        cosine = math.cos(math.pi * share) + 1
        rate, momentum = (end + (start - end) / 2 * cosine for start, end in (rates, momenta))
        return rate, momentum
