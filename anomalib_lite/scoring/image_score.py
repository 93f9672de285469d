"""From a coarse anomaly map to a smooth one, and from that to one score an image."""

import contextlib
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from anomalib_lite.errors import UserError
from anomalib_lite.scoring.separable import enlarged, gaussian

AT_ONCE = 1 << 20  # pixels of a map that are blurred together


class GaussianBlur(nn.Module):
    """Gaussian blur of an anomaly map, as scipy.ndimage.gaussian_filter with mode="mirror", truncate=4.

    map (B, 1, H, W) -> (B, 1, H, W). sigma in px, 0 leaves the map as it is. Under autocast the blur still runs in
    the map's own precision, since rounding a map to bfloat16 would tie its scores.
    Errors: UserError for a sigma that is none, and for a map no larger than the kernel's reach of 4 sigma.
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
        """Errors: UserError where maps of this height and width are too small to be blurred."""
        if self.radius and min(size) <= self.radius:
            raise UserError(
                f"An anomaly map of {size[0]} x {size[1]} pixels is too small for a blur of sigma {self.sigma:g}, "
                f"which reaches {self.radius} pixels: choose an image_size above {self.radius}, or a "
                f"scoring.blur.sigma of {(min(size) - 1) / 4:g} or less."
            )

    def forward(self, map: torch.Tensor) -> torch.Tensor:
        radius = self.radius
        if radius == 0:
            return map
        self.check(map.shape[-2:])
        with _full_precision(map):
            return self._down(self._down(map).transpose(2, 3)).transpose(2, 3).contiguous()

    def enlarged(self, map: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """A coarse map (B, 1, h, w), bilinearly at another size, and blurred."""
        if tuple(map.shape[-2:]) == tuple(size):
            return self(map)
        self.check(size)
        with _full_precision(map):
            return enlarged(map, size, self.sigma, 4, "reflect")

    def _down(self, map: torch.Tensor) -> torch.Tensor:
        """Blur along H, columns as channels: a depthwise convolution then runs over whole rows. Of a large map, some
        columns at a time, since that takes four times what they take.
        """
        whole = torch.compiler.is_exporting()
        blurred = [self._columns(part) for part in ([map] if whole else map.split(max(64, AT_ONCE // map.shape[2]), 3))]
        return torch.cat(blurred, 3) if len(blurred) > 1 else blurred[0]

    def _columns(self, map: torch.Tensor) -> torch.Tensor:
        width = map.shape[3]
        padded = F.pad(map, (0, 0, self.radius, self.radius), mode="reflect")
        kernel = self.kernel.to(map.dtype).view(1, 1, -1, 1).expand(width, 1, -1, 1)
        return F.conv2d(padded.permute(0, 3, 2, 1), kernel, groups=width).permute(0, 3, 2, 1)


def _full_precision(map: torch.Tensor) -> contextlib.AbstractContextManager:
    if torch.is_autocast_enabled(map.device.type):
        return torch.autocast(map.device.type, enabled=False)
    return contextlib.nullcontext()


class MaxScore(nn.Module):
    """The largest pixel of the map: (B, 1, H, W) -> (B,)."""

    def forward(self, map: torch.Tensor) -> torch.Tensor:
        return map.flatten(1).amax(dim=1)


class TopKScore(nn.Module):
    """Mean of the largest pixels of the map: (B, 1, H, W) -> (B,).

    pixels: how many, if >= 1 and an int; as a float in (0, 1], the share of the map (at least one pixel).
    More stable than the maximum against single hot pixels, less sensitive to defects smaller than that.
    """

    def __init__(self, pixels: int | float = 0.01) -> None:
        super().__init__()
        whole = isinstance(pixels, int)
        if isinstance(pixels, bool) or not (pixels >= 1 if whole else 0 < pixels <= 1):
            raise UserError(
                "The score's pixels must be a whole number, 1 or more, or a share above 0.0 and at most 1.0, not "
                f"{pixels!r}."
            )
        self.pixels = pixels

    def forward(self, map: torch.Tensor) -> torch.Tensor:
        flat = map.flatten(1)
        size = flat.shape[1]
        count = min(self.pixels, size) if isinstance(self.pixels, int) else max(1, round(self.pixels * size))
        return flat.topk(count, dim=1, sorted=False).values.mean(dim=1)
