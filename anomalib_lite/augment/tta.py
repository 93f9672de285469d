"""Test-time augmentation: an image is evaluated in several views, whose maps are reduced to one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_lite.errors import UserError

FLIPS: dict[str, tuple[int, ...]] = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


@dataclass(frozen=True)
class View:
    """A view of an image: mirrored, and with its colours changed by these factors, in this order."""

    flip: str = "none"  # horizontal swaps left and right
    brightness: float = 1.0
    contrast: float = 1.0  # relative to the image's mean
    saturation: float = 1.0  # relative to the image's grey

    def __post_init__(self) -> None:
        if self.flip not in FLIPS:
            raise UserError(f"A view's flip must be one of {', '.join(FLIPS)}, not '{self.flip}'.")
        if min(self.brightness, self.contrast, self.saturation) < 0:
            raise UserError("A view's brightness, contrast and saturation must be factors of 0 or more.")

    @property
    def identity(self) -> bool:
        return self == View()

    @property
    def label(self) -> str:
        """For progress bars, e.g. `horizontal flip, brightness 1.1`."""
        parts = [f"{self.flip} flip"] if FLIPS[self.flip] else []
        parts += [f"{k} {v}" for k in ("brightness", "contrast", "saturation") if (v := getattr(self, k)) != 1]
        return ", ".join(parts) or "unchanged"

    def apply(self, image: Tensor) -> Tensor:
        """Applies the view to images (B, 3, H, W) in [0, 1]; shape and range stay the same."""
        if FLIPS[self.flip]:
            image = image.flip(FLIPS[self.flip])
        if self.brightness != 1:
            image = (image * self.brightness).clamp(0, 1)
        if self.contrast != 1:
            mean = image.mean((1, 2, 3), keepdim=True)
            image = (mean + (image - mean) * self.contrast).clamp(0, 1)
        if self.saturation != 1:
            grey = (image * image.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
            image = (grey + (image - grey) * self.saturation).clamp(0, 1)
        return image

    def undo(self, maps: Tensor) -> Tensor:
        """Flips maps (B, 1, h, w) of the view back to the image, which is exact."""
        return maps.flip(FLIPS[self.flip]) if FLIPS[self.flip] else maps


class TestTimeAugmentation(nn.Module):
    """The views, dictionaries of View's fields, and the reduction of their maps to one, by `mean` or `max`."""

    __test__ = False  # pytest must not collect this class

    def __init__(self, views: Sequence[Mapping[str, Any]] = ({},), reduce: str = "mean") -> None:
        super().__init__()
        if not views:
            raise UserError("tta.views is empty: name at least one view, e.g. {} for the unchanged image.")
        if reduce not in ("mean", "max"):
            raise UserError(f"tta.reduce must be one of mean, max, not '{reduce}'.")
        names = [field.name for field in fields(View)]
        for view in views:
            if wrong := [str(key) for key in view if key not in names]:
                raise UserError(f"A view of tta.views has no '{wrong[0]}'; it has {', '.join(names)}.")
        self.views, self.how = [View(**view) for view in views], reduce

    def reduce(self, maps: Sequence[Tensor]) -> Tensor:
        """Reduces the views' maps (B, 1, h, w), already undone, to one of the same shape."""
        if len(maps) == 1:
            return maps[0]
        stacked = torch.stack(list(maps))
        return stacked.mean(0) if self.how == "mean" else stacked.amax(0)
