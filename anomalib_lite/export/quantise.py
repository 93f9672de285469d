"""A network's convolutions in 8 bits, already in torch: so statistics can be fitted to what they then give."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_lite.backbones.folding import Folded, fold, replace, watch
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.learned import Networks, Rounding
from anomalib_lite.detectors.model import Model
from anomalib_lite.errors import UserError

NETWORKS = ("backbone", "teacher", "student")  # whose convolutions are computed in 8 bits
LEVELS, MOST = 255, 127
Range = tuple[float, float]


class Rounded(nn.Module):
    """Values (B, ...) rounded to 256 levels, of a range that holds 0."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        low, high = min(low, 0.0), max(high, 1e-6)
        self.scale = (high - low) / LEVELS
        self.zero = round(-low / self.scale)

    def forward(self, values: Tensor) -> Tensor:
        known = torch.ops.quantized_decomposed
        whole = known.quantize_per_tensor(values, self.scale, self.zero, 0, LEVELS, torch.uint8)
        return known.dequantize_per_tensor(whole, self.scale, self.zero, 0, LEVELS, torch.uint8)


class RoundedWeights(nn.Module):
    """Weights of a convolution in 8 bits, a scale for each output channel."""

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / MOST
        whole, zero = (weight / scale.view(-1, 1, 1, 1)).round().to(torch.int8), torch.zeros_like(scale).long()
        known = torch.ops.quantized_decomposed
        return known.dequantize_per_channel(whole, scale, zero, 0, -MOST, MOST, torch.int8)


class Convolution(nn.Module):
    """A convolution of 8-bit weights and of a rounded input."""

    def __init__(self, conv: nn.Conv2d, inwards: Rounded) -> None:
        super().__init__()
        self.conv, self.inwards, self.weights = conv, inwards, RoundedWeights()

    def forward(self, values: Tensor) -> Tensor:
        weight = self.weights(self.conv.weight)
        return torch.func.functional_call(self.conv, {"weight": weight}, (self.inwards(values),))


@torch.no_grad()
def quantise(model: Model, batches: Sequence[Batch]) -> None:
    """Rounds a model's networks, in place; ranges come from the batches.

    Batch normalisation is folded into the convolution before it. Errors: UserError where there is no convolution.
    """
    networks = [module for name, module in model.named_modules() if name.split(".")[-1] in NETWORKS]
    fold(networks, lambda: model.predict_batch(batches[0]))
    ranges = _ranges(networks, model, batches)
    if not any(isinstance(module, nn.Conv2d) for module in ranges):
        raise UserError("precision=int8 computes convolutions in 8 bits, and this backbone has none: take fp16.")
    new: dict[nn.Module, nn.Module] = {}
    for module, limits in ranges.items():
        rounded = Rounded(*limits)
        new[module] = Convolution(module, rounded) if isinstance(module, nn.Conv2d) else nn.Sequential(module, rounded)
    replace(networks, new)


@torch.no_grad()
def quantise_learned(model: Model, batches: Iterable[Batch]) -> None:
    """Rounds, in place, the networks that learned from drawn defects; batches: as of `quantise`, some with defects."""
    networks = [module for module in model.modules() if isinstance(module, Networks)]
    ranges = _ranges(networks, model, batches) if networks else {}
    points = {point: Rounded(*limits) for point, limits in ranges.items()}
    replace(networks, points | {own.weights: RoundedWeights() for own in networks})


def _ranges(networks: Sequence[nn.Module], model: Model, batches: Iterable[Batch]) -> dict[nn.Module, Range]:
    """Of what goes into convolutions, and of what comes out of activations and points of rounding."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401  # the operations, half a second

    ranges: dict[nn.Module, Range] = {}

    def measure(module: Any, inputs: Any, output: Tensor) -> None:
        for values in [inputs[0]] * isinstance(module, nn.Conv2d) + [output] * isinstance(module, (Folded, Rounding)):
            low, high = ranges.get(module, (0.0, 0.0))
            ranges[module] = min(low, float(values.min())), max(high, float(values.max()))

    watch(networks, measure, lambda: [model.predict_batch(batch) for batch in batches])
    return ranges
