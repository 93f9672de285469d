"""Smoothing of anomaly maps, and image scores from them."""

import contextlib
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from anomalib_lite.errors import UserError
from anomalib_lite.scoring.separable import enlarged, gaussian

AT_ONCE = 1 << 20  # pixels of a map that are blurred at a time


class GaussianBlur(nn.Module):
    """Gaussian blur of maps (B, 1, H, W), like scipy.ndimage.gaussian_filter with mode="mirror", truncate=4.

    Sigma is in px; 0 does not blur. Under autocast the blur still uses the map's precision, since rounding to bfloat16
    would create ties. Raises UserError for an invalid sigma, and for maps no larger than the kernel's radius of 4
    sigma.
    """

    kernel: torch.Tensor

    def __init__(self, sigma: float = 4.0) -> None:
        super().__init__()
        if not 0 <= sigma < float("inf"):
            raise UserError(f"The blur's sigma must be a number of pixels, 0 or more, not {sigma}.")
        self.sigma = sigma
        self.radius = int(4 * sigma + 0.5)
        self.register_buffer("kernel", torch.from_numpy(gaussian(sigma, self.radius)).float(), persistent=False)

    def check(self, size: Sequence[int]) -> None:
        """Raises UserError if maps of this height and width are too small for the blur."""
        if self.radius and min(size) <= self.radius:
            raise UserError(
                f"An anomaly map of {size[0]} x {size[1]} pixels is too small for a blur of sigma {self.sigma:g}, "
                f"which reaches {self.radius} pixels: choose an image_size above {self.radius}, or a "
                f"scoring.blur.sigma of {(min(size) - 1) / 4:g} or less."
            )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        radius = self.radius
        if radius == 0:
            return maps
        self.check(maps.shape[-2:])
        with _full_precision(maps):
            return self._down(self._down(maps).transpose(2, 3)).transpose(2, 3).contiguous()

    def enlarged(self, maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Resizes coarse maps (B, 1, h, w) bilinearly and blurs them."""
        if tuple(maps.shape[-2:]) == tuple(size):
            return self(maps)
        self.check(size)
        with _full_precision(maps):
            return enlarged(maps, size, self.sigma, 4, "reflect")

    def _down(self, maps: torch.Tensor) -> torch.Tensor:
        """Blurs along H, with columns as channels, so that a depthwise convolution runs over whole rows.

        Splits large maps into groups of columns, since the convolution takes four times their memory.
        """
        whole = torch.compiler.is_exporting()
        parts = [maps] if whole else maps.split(max(64, AT_ONCE // maps.shape[2]), 3)
        blurred = [self._columns(part) for part in parts]
        return torch.cat(blurred, 3) if len(blurred) > 1 else blurred[0]

    def _columns(self, maps: torch.Tensor) -> torch.Tensor:
        width = maps.shape[3]
        padded = F.pad(maps, (0, 0, self.radius, self.radius), mode="reflect")
        kernel = self.kernel.to(maps.dtype).view(1, 1, -1, 1).expand(width, 1, -1, 1)
        return F.conv2d(padded.permute(0, 3, 2, 1), kernel, groups=width).permute(0, 3, 2, 1)


def _full_precision(maps: torch.Tensor) -> contextlib.AbstractContextManager:
    if torch.is_autocast_enabled(maps.device.type):
        return torch.autocast(maps.device.type, enabled=False)
    return contextlib.nullcontext()


class MaxScore(nn.Module):
    """Maximum of the map: (B, 1, H, W) to (B,)."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.flatten(1).amax(dim=1)


class TopKScore(nn.Module):
    """Mean of the largest pixels of the map: (B, 1, H, W) to (B,).

    `pixels` is a number, if an int >= 1, or a share of the map, if a float in (0, 1], of at least one pixel. More
    robust to single hot pixels than the maximum, but less sensitive to defects of fewer pixels.
    """

    def __init__(self, pixels: int | float = 0.01) -> None:
        super().__init__()
        is_count = isinstance(pixels, int)
        if isinstance(pixels, bool) or not (pixels >= 1 if is_count else 0 < pixels <= 1):
            raise UserError(
                "The score's pixels must be an integer of at least 1, or a float above 0.0 and at most 1.0, not "
                f"{pixels!r}."
            )
        self.pixels = pixels

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        flat = maps.flatten(1)
        size = flat.shape[1]
        count = min(self.pixels, size) if isinstance(self.pixels, int) else max(1, round(self.pixels * size))
        return flat.topk(count, dim=1, sorted=False).values.mean(dim=1)
