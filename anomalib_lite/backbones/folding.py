"""Faster inference: folds batch normalisation into convolutions, and runs 1 x 1 convolutions through oneDNN."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def pointwise(values: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sequence[int] = (1, 1)) -> Tensor:
    """Computes a 1 x 1 convolution of (B, C, H, W) with weights (D, C, 1, 1).

    For fewer than 16 images on one thread, torch's own implementation is half as fast as oneDNN's, which this calls.
    """
    use_torch = values.device.type != "cpu" or values.dtype != torch.float32 or not torch.backends.mkldnn.is_available()
    if use_torch or torch.compiler.is_exporting() or torch.is_autocast_enabled("cpu"):
        return F.conv2d(values, weight, bias, tuple(stride))
    return torch.mkldnn_convolution(values, weight, bias, [0, 0], list(stride), [1, 1], 1)


class Pointwise(nn.Conv2d):
    """A module for `pointwise`."""

    def forward(self, values: Tensor) -> Tensor:
        return pointwise(values, self.weight, self.bias, self.stride)


class Same(Conv2dSame):
    """A depthwise convolution of stride 2 with TensorFlow's padding, which pads even sides more at the end.

    Lengthens the kernel by a zero instead of copying the input with borders.
    """

    def forward(self, values: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return super().forward(values)
        extra_y, extra_x = (1 - side % 2 for side in values.shape[2:])
        weight, padding = F.pad(self.weight, (extra_x, 0, extra_y, 0)), [side // 2 for side in self.kernel_size]
        return F.conv2d(values, weight, self.bias, self.stride, padding, groups=self.groups)


class Folded(nn.Sequential):
    """Replaces a folded batch normalisation; keeps the activation that timm's may hold."""


@torch.no_grad()
def fold(networks: Sequence[nn.Module], run: Callable[[], Any]) -> None:
    """Folds, in place, each batch normalisation that normalises a convolution's output.

    `run` calls the networks once, in eval mode, on any images. Do not pass networks that use a convolution's output
    elsewhere, too: their results would change.
    """
    outputs: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def pair(module: Any, inputs: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            outputs.append((output, module))
        if isinstance(module, nn.BatchNorm2d):
            pairs.update((module, conv) for tensor, conv in outputs if tensor is inputs[0])

    watch(networks, pair, run)
    for norm, conv in pairs.items():
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None
        fused = fuse_conv_bn_weights(conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias)
        conv.weight, conv.bias = (nn.Parameter(part.detach(), requires_grad=False) for part in fused)
        if type(conv) is nn.Conv2d and conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1:
            conv.__class__ = Pointwise
        odd = all(side % 2 and side > 1 for side in conv.kernel_size)
        if type(conv) is Conv2dSame and conv.groups > 1 and odd and (conv.stride, conv.dilation) == ((2, 2), (1, 1)):
            conv.__class__ = Same
    replace(networks, {norm: Folded(*norm.children()) for norm in pairs})


def watch(networks: Sequence[nn.Module], hook: Any, run: Callable[[], Any]) -> None:
    """Runs with a forward hook on each module of the networks."""
    handles = [part.register_forward_hook(hook) for network in networks for part in network.modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()


def replace(networks: Sequence[nn.Module], new: Mapping[nn.Module, nn.Module]) -> None:
    """Replaces modules by new ones."""
    for network in networks:
        for parent in list(network.modules()):
            for name, module in list(parent.named_children()):
                if module in new:
                    setattr(parent, name, new[module])
