"""Pixels of any size -> the model's size inside the graph, as `data.decode.resize_image` gives them."""

import torch
from torch import Tensor, nn

UNIT = 2048  # OpenCV counts bilinear weights in parts of so many


class Resize(nn.Module):
    """uint8 (N, H, W, 3) -> uint8 (N, height, width, 3).

    What OpenCV gives: areas where both sides shrink (INTER_AREA), else bilinear (INTER_LINEAR), in its own fixed-point
    numbers. About one value in 100,000 differs by 1: OpenCV adds up areas in another order. Each output reads only the
    few rows and columns that it needs, found from the input's shape by whole numbers, so that the graph takes any size.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, pixels: Tensor) -> Tensor:
        same = (pixels.shape[1] == self.height) & (pixels.shape[2] == self.width)
        flat = torch.cond(same, self._whole, self._resized, (pixels,))
        torch._check(flat.shape[1] == self.height * self.width * 3)  # the exporter cannot see that itself
        return flat.view(pixels.shape[0], self.height, self.width, 3)

    def _whole(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1).clone()

    def _resized(self, pixels: Tensor) -> Tensor:
        shrinks = (pixels.shape[1] >= self.height) & (pixels.shape[2] >= self.width)
        return torch.cond(shrinks, self._area, self._linear, (pixels,)).to(torch.uint8).flatten(1)

    def _area(self, pixels: Tensor) -> Tensor:
        count, height, width = pixels.shape[:3]
        y, down = _areas(height, self.height)
        x, across = _areas(width, self.width)
        rows = pixels.index_select(1, y.flatten()).float().view(count, self.height, y.shape[1], width * 3)
        rows = (down[:, None] @ rows).view(count * self.height, width, 3)
        columns = rows.index_select(1, x.flatten()).view(count, self.height, self.width, x.shape[1], 3)
        mean = (across[:, None] @ columns)[..., 0, :]
        halved = (down[0, 0] == 0.5) & (across[0, 0] == 0.5)  # OpenCV's shortcut for halves rounds x.5 up
        return torch.where(halved, torch.floor(mean + 0.5), torch.round(mean))

    def _linear(self, pixels: Tensor) -> Tensor:
        y, down = _pairs(pixels.shape[1], self.height, inside=False)
        x, across = _pairs(pixels.shape[2], self.width, inside=True)
        found = pixels.index_select(1, y.flatten()).index_select(2, x.flatten()).float()
        found = found.view(pixels.shape[0], self.height, 2, self.width, 2, 3)
        rows = torch.floor((found * across[:, :, None]).sum(4) / 16)
        both = torch.floor(rows * down[:, :, None, None] / 65536).sum(2)
        return torch.floor((both + 2) / 4)


def _areas(size: int, target: int) -> tuple[Tensor, Tensor]:
    """Which of `size` places make up each of fewer, `target`, and how much each of them counts: (target, K) both."""
    k, i = torch.arange((size + target - 1) // target + 1), torch.arange(target)[:, None]
    first = i * size // target
    begin = i * size - first * target  # in units of 1 / target of a place, from the first one on
    share = torch.minimum((k + 1) * target, begin + size) - torch.maximum(k * target, begin)
    return (first + k).clamp_max(size - 1), share.clamp_min(0).float() / size


def _pairs(size: int, target: int, inside: bool) -> tuple[Tensor, Tensor]:
    """The two of `size` places that each of `target` lies between, and their weights in units of 1 / 2048.

    inside: whether the weights beyond the border are cut, as OpenCV does it for columns, though not for rows.
    """
    middle = (2 * torch.arange(target) + 1) * size + target  # in units of 1 / (2 target) of a place, from -1 on
    first = middle // (2 * target) - 1
    part = torch.round((middle - (first + 1) * 2 * target).float() * (UNIT / (2 * target)))
    if inside:
        part = torch.where((first < 0) | (first >= size - 1), 0.0, part)
    return torch.stack([first, first + 1], 1).clamp(0, size - 1), torch.stack([UNIT - part, part], 1)
