"""A network's blocks, from the image to the last feature, and freezing all but the last of them."""

from __future__ import annotations

from itertools import takewhile

from torch import nn

from anomalib_lite.errors import UserError

Normalisation = nn.modules.batchnorm._BatchNorm  # all that keeps statistics


def block_of(name: str) -> str:
    """The block that a tensor belongs to: its name up to the first numbers in it, else its first part.

    `layer2.0.downsample.0.weight` -> `layer2.0`, `blocks.2.1.conv_pw.weight` -> `blocks.2.1`, `conv1.weight` ->
    `conv1`.
    """
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if first is None:
        return parts[0]
    numbers = list(takewhile(str.isdigit, parts[first:]))
    return ".".join(parts[: first + len(numbers)])


def blocks(net: nn.Module) -> list[str]:
    """Names of the blocks that have parameters, in the network's order."""
    return list(dict.fromkeys(block_of(name) for name, _ in net.named_parameters()))


def unfreeze_last(net: nn.Module, count: int | None) -> list[str]:
    """Lets the last `count` blocks learn, or all where it is None; freezes the others. Returns those that learn."""
    names = blocks(net)
    if count is not None and not 1 <= count <= len(names):
        raise UserError(
            f"teacher.unfreeze must be null (the whole backbone) or from 1 to {len(names)}, but is {count}; "
            f"the backbone's blocks are {', '.join(names)}. To change nothing, take teacher=frozen."
        )
    learning = names if count is None else names[-count:]
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(block_of(name) in learning)
    return learning


def keep_statistics(net: nn.Module, learning: list[str]) -> None:
    """Normalisation outside the learning blocks goes into eval mode: its statistics belong to its weights."""
    for name, module in net.named_modules():
        if isinstance(module, Normalisation) and block_of(f"{name}.weight") not in learning:
            module.eval()
