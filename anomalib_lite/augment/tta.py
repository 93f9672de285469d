"""Test-time augmentation: an image is looked at in several views, and their maps become one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_lite.errors import UserError

FLIPS: dict[str, tuple[int, ...]] = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
REDUCE = ("mean", "max")


@dataclass(frozen=True)
class View:
    """One look at an image: mirrored, and with its colours changed.

    flip: none, horizontal (left and right change places), vertical or both. brightness, contrast, saturation: factors,
    applied in this order; contrast is about the image's mean, saturation about its grey.
    """

    flip: str = "none"
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def __post_init__(self) -> None:
        if self.flip not in FLIPS:
            raise UserError(f"A view's flip must be one of {', '.join(FLIPS)}, not '{self.flip}'.")
        if min(self.brightness, self.contrast, self.saturation) < 0:
            raise UserError("A view's brightness, contrast and saturation are factors, 0 or more.")

    @property
    def identity(self) -> bool:
        return self == View()

    @property
    def label(self) -> str:
        """For a progress bar: `horizontal flip, brightness 1.1`."""
        parts = [f"{self.flip} flip"] if FLIPS[self.flip] else []
        parts += [f"{k} {v}" for k in ("brightness", "contrast", "saturation") if (v := getattr(self, k)) != 1]
        return ", ".join(parts) or "as it is"

    def apply(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> the same shape and range."""
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

    def undo(self, map: Tensor) -> Tensor:
        """A map (B, 1, h, w) of the view -> the map of the image; exact, since flips are their own inverses."""
        return map.flip(FLIPS[self.flip]) if FLIPS[self.flip] else map


class TestTimeAugmentation(nn.Module):
    """The views, and how their maps are reduced to one.

    views: dictionaries of View's fields. reduce: `mean` or `max` over the views, pixel by pixel.
    """

    __test__ = False  # no test case, whatever its name says

    def __init__(self, views: Sequence[Mapping[str, Any]] = ({},), reduce: str = "mean") -> None:
        super().__init__()
        if not views:
            raise UserError("tta.views is empty: name at least one view, e.g. {} for the image as it is.")
        if reduce not in REDUCE:  # else anything would mean `max`
            raise UserError(f"tta.reduce must be one of {', '.join(REDUCE)}, not '{reduce}'.")
        known = [field.name for field in fields(View)]
        for view in views:
            if wrong := [str(key) for key in view if key not in known]:
                raise UserError(f"A view of tta.views has no '{wrong[0]}'; it has {', '.join(known)}.")
        self.views = [View(**view) for view in views]
        self.how = reduce

    def reduce(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, 1, h, w) of the views, already undone -> one of the same shape."""
        if len(maps) == 1:
            return maps[0]
        stacked = torch.stack(list(maps))
        return stacked.mean(0) if self.how == "mean" else stacked.amax(0)
