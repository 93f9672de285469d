"""Simulates 8-bit convolutions in torch, so that statistics and threshold can be fitted to the quantised features."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_lite.backbones.folding import Folded, fold, replace, watch
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.learned import Networks, Rounding
from anomalib_lite.detectors.model import Model
from anomalib_lite.errors import UserError

NETWORKS = ("backbone", "teacher", "student")  # modules whose convolutions are quantised
LEVELS, MOST = 255, 127  # largest unsigned and signed 8-bit value
Range = tuple[float, float]


class Rounded(nn.Module):
    """Quantises values (B, ...) to 256 levels of a range that contains 0, and dequantises them."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        low, high = min(low, 0.0), max(high, 1e-6)
        self.scale = (high - low) / LEVELS
        self.zero = round(-low / self.scale)

    def forward(self, values: Tensor) -> Tensor:
        ops = torch.ops.quantized_decomposed
        quantised = ops.quantize_per_tensor(values, self.scale, self.zero, 0, LEVELS, torch.uint8)
        return ops.dequantize_per_tensor(quantised, self.scale, self.zero, 0, LEVELS, torch.uint8)


class RoundedWeights(nn.Module):
    """Quantises a convolution's weights to 8 bits, with a scale per output channel, and dequantises them."""

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / MOST
        quantised, zero = (weight / scale.view(-1, 1, 1, 1)).round().to(torch.int8), torch.zeros_like(scale).long()
        ops = torch.ops.quantized_decomposed
        return ops.dequantize_per_channel(quantised, scale, zero, 0, -MOST, MOST, torch.int8)


class Convolution(nn.Module):
    """A convolution with quantised weights and quantised input."""

    def __init__(self, conv: nn.Conv2d, inwards: Rounded) -> None:
        super().__init__()
        self.conv, self.inwards, self.weights = conv, inwards, RoundedWeights()

    def forward(self, values: Tensor) -> Tensor:
        weight = self.weights(self.conv.weight)
        return torch.func.functional_call(self.conv, {"weight": weight}, (self.inwards(values),))


@torch.no_grad()
def quantise(model: Model, batches: Sequence[Batch]) -> None:
    """Quantises a model's networks in place, with activation ranges measured on the batches.

    Folds batch normalisation into the preceding convolution. Raises UserError if the networks have no convolution.
    """
    networks = [module for name, module in model.named_modules() if name.split(".")[-1] in NETWORKS]
    fold(networks, lambda: model.predict_batch(batches[0]))
    ranges = _ranges(networks, model, batches)
    if not any(isinstance(module, nn.Conv2d) for module in ranges):
        raise UserError("precision=int8 quantises convolutions, but this backbone has none: use precision=fp16.")
    quantised: dict[nn.Module, nn.Module] = {}
    for module, limits in ranges.items():
        rounded = Rounded(*limits)
        wrapped = Convolution(module, rounded) if isinstance(module, nn.Conv2d) else nn.Sequential(module, rounded)
        quantised[module] = wrapped
    replace(networks, quantised)


@torch.no_grad()
def quantise_learned(model: Model, batches: Iterable[Batch]) -> None:
    """Quantises in place the networks that were trained on synthetic defects; some batches should show such defects."""
    networks = [module for module in model.modules() if isinstance(module, Networks)]
    ranges = _ranges(networks, model, batches) if networks else {}
    points = {point: Rounded(*limits) for point, limits in ranges.items()}
    replace(networks, points | {network.weights: RoundedWeights() for network in networks})


def _ranges(networks: Sequence[nn.Module], model: Model, batches: Iterable[Batch]) -> dict[nn.Module, Range]:
    """Measures (min, max) of inputs of convolutions, and of outputs of activations and `Rounding` modules."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401  # registers the operations; takes half a second

    ranges: dict[nn.Module, Range] = {}

    def measure(module: Any, inputs: Any, output: Tensor) -> None:
        for values in [inputs[0]] * isinstance(module, nn.Conv2d) + [output] * isinstance(module, (Folded, Rounding)):
            low, high = ranges.get(module, (0.0, 0.0))
            ranges[module] = min(low, float(values.min())), max(high, float(values.max()))

    watch(networks, measure, lambda: [model.predict_batch(batch) for batch in batches])
    return ranges
