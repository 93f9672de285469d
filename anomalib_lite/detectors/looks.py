"""What a fusion looks at: an image as several maps of measurements, one network pass for all of them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.augment.tta import GREY
from anomalib_lite.backbones import Backbone
from anomalib_lite.detectors.levels import size_of, stack
from anomalib_lite.detectors.template import TemplateComparison, required

LIGHT = (0.950456, 1.0, 1.088754)  # XYZ of white, D65
XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
COLOUR_SCALES = (1.5, 4.0)  # px by which the colours are blurred, at an image of 256 px
SHARPNESS_SCALE = 4.0  # px over which gradients are averaged, likewise
NAMES = ("colour", "sharpness", "fine", "middle", "deep", "template")

Looks = dict[str, Tensor]


class Looker(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> measurements (B, C, h, w) by name.

    colour: CIE Lab at two scales; sharpness: log energy of the grey picture's gradient; both on the grid of `fine`, the
    backbone's first layer. middle: its second layer. deep: all but the first together, on the grid of the coarsest.
    template: how features of each layer and pixels differ from the template's, on the grid of `fine`.

    Args:
        backbone: Makes the network.
        channels: Of a layer, or of the deep ones together, with more, so many are drawn by the seed, as in PaDiM.
        compare: Makes the comparison with a template; None: there is none.
    """

    fine_kept: Tensor
    middle_kept: Tensor
    deep_kept: Tensor

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        channels: int,
        seed: int,
        compare: Callable[..., TemplateComparison] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone().frozen()
        widths = self.backbone.channels
        generator = torch.Generator().manual_seed(seed)
        sizes = (widths[0], widths[min(1, len(widths) - 1)], sum(widths[1:]) or widths[0])
        for name, width in zip(("fine", "middle", "deep"), sizes, strict=True):
            kept = torch.randperm(width, generator=generator)[:channels].sort().values
            self.register_buffer(f"{name}_kept", kept)
        self.channels = {"colour": 3 * len(COLOUR_SCALES), "sharpness": 1}
        self.channels |= {name: len(getattr(self, f"{name}_kept")) for name in ("fine", "middle", "deep")}
        self.compare = None if compare is None else compare(backbone=backbone)
        if self.compare is not None:
            self.channels["template"] = len(self.compare.weights)
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor, template: Tensor | None = None) -> Looks:
        looks = self.features(image)
        grid = size_of(looks["fine"])
        looks["colour"], looks["sharpness"] = appearance(image, grid)
        if self.compare is not None:
            pair = self.compare.align(image, required(template))
            looks["template"] = stack(self.compare.differences(image, *pair), grid)
        return looks

    def features(self, image: Tensor) -> Looks:
        """The looks through the backbone alone."""
        features = self.backbone(image.contiguous(memory_format=torch.channels_last))
        fine, rest = features[0], features[1:] or features[:1]
        coarse = min((size_of(f) for f in rest), key=lambda s: s[0] * s[1])
        return {
            "fine": fine[:, self.fine_kept],
            "middle": rest[0][:, self.middle_kept],
            "deep": stack(rest, coarse)[:, self.deep_kept],
        }


def appearance(image: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) in [0, 1] -> colour (B, 6, *grid) and sharpness (B, 1, *grid)."""
    cell = min(image.shape[-2:]) / min(grid)  # px; what is averaged over one is already blurred by its side / sqrt(12)
    unit = min(image.shape[-2:]) / 256
    lab = F.adaptive_avg_pool2d(rgb_to_lab(F.avg_pool2d(image, 2, ceil_mode=True)), grid)
    sigmas = [max((scale * unit / cell) ** 2 - 1 / 12, 0.0) ** 0.5 for scale in COLOUR_SCALES]
    light = 100 * F.conv2d(image, image.new_tensor(GREY).view(1, 3, 1, 1))
    down = (light[:, :, 2:] - light[:, :, :-2]).square()
    across = (light[..., 2:] - light[..., :-2]).square()
    energy = (F.adaptive_avg_pool2d(down, grid) + F.adaptive_avg_pool2d(across, grid)) / 4
    sharpness = blurred(energy, SHARPNESS_SCALE * unit / cell)
    return torch.cat([blurred(lab, sigma) for sigma in sigmas], 1), (sharpness + 0.5).log()


def rgb_to_lab(image: Tensor) -> Tensor:
    """sRGB (B, 3, H, W) in [0, 1] -> CIE Lab of the same shape, lightness 0 to 100, white point D65."""
    linear = torch.where(image > 0.04045, ((image.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, image / 12.92)
    matrix = image.new_tensor(XYZ) / image.new_tensor(LIGHT)[:, None]
    xyz = F.conv2d(linear, matrix[:, :, None, None])
    root = torch.where(xyz > 0.008856, xyz.clamp_min(0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """Gaussian blur over three standard deviations, borders repeated: (B, C, H, W) -> the same shape."""
    radius = int(3 * sigma + 0.5)
    if radius == 0:
        return picture
    offsets = torch.arange(-radius, radius + 1, dtype=picture.dtype, device=picture.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    batch, channels, height, width = picture.shape
    flat = picture.reshape(batch * channels, 1, height, width)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel.transpose(2, 3))
    return flat.view(batch, channels, height, width)
