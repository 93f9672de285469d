"""Resizes images inside an exported graph, with the results of `data.decode.resize_image`."""

import torch
from torch import Tensor, nn

UNIT = 2048  # OpenCV's fixed-point unit of bilinear weights


class Resize(nn.Module):
    """Resizes uint8 (N, H, W, 3) to float32 (N, height, width, 3) of whole numbers from 0 to 255.

    Reproduces OpenCV: INTER_AREA where both sides shrink, else INTER_LINEAR in fixed-point arithmetic. About one value
    in 100,000 differs by 1, because OpenCV sums areas in another order. Each output gathers only the rows and columns
    it needs, with indices computed in integers from the input's shape, so the graph accepts any size.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, pixels: Tensor) -> Tensor:
        same = (pixels.shape[1] == self.height) & (pixels.shape[2] == self.width)
        return torch.cond(same, self._whole, self._resized, (pixels,))

    def _whole(self, pixels: Tensor) -> Tensor:
        """Returns the pixels unchanged; the selection tells the exporter their size."""
        return pixels.index_select(1, torch.arange(self.height)).index_select(2, torch.arange(self.width)).float()

    def _resized(self, pixels: Tensor) -> Tensor:
        shrinks = (pixels.shape[1] >= self.height) & (pixels.shape[2] >= self.width)
        return torch.cond(shrinks, self._area, self._linear, (pixels,))

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
        corners = pixels.index_select(1, y.flatten()).index_select(2, x.flatten()).float()
        corners = corners.view(pixels.shape[0], self.height, 2, self.width, 2, 3)
        rows = torch.floor((corners * across[:, :, None]).sum(4) / 16)
        both = torch.floor(rows * down[:, :, None, None] / 65536).sum(2)
        return torch.floor((both + 2) / 4)


def _areas(size: int, target: int) -> tuple[Tensor, Tensor]:
    """Returns the indices and weights, both (target, K), of the `size` pixels that each of `target` pixels averages."""
    k, i = torch.arange((size + target - 1) // target + 1), torch.arange(target)[:, None]
    first = i * size // target
    begin = i * size - first * target  # offset within the first pixel, in units of 1 / target pixel
    share = torch.minimum((k + 1) * target, begin + size) - torch.maximum(k * target, begin)
    return (first + k).clamp_max(size - 1), share.clamp_min(0).float() / size


def _pairs(size: int, target: int, inside: bool) -> tuple[Tensor, Tensor]:
    """Returns the indices of the two of `size` pixels around each of `target` pixels, and their weights x 2048.

    inside: whether to clamp weights at the border, which OpenCV does for columns but not for rows.
    """
    middle = (2 * torch.arange(target) + 1) * size + target  # in units of 1 / (2 target) pixel, counted from -1
    first = middle // (2 * target) - 1
    part = torch.round((middle - (first + 1) * 2 * target).float() * (UNIT / (2 * target)))
    if inside:
        part = torch.where((first < 0) | (first >= size - 1), 0.0, part)
    return torch.stack([first, first + 1], 1).clamp(0, size - 1), torch.stack([UNIT - part, part], 1)
