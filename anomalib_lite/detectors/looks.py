"""What a fusion looks at: an image as several maps of measurements, one network pass for all of them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.augment.tta import GREY
from anomalib_lite.backbones import Backbone
from anomalib_lite.detectors.levels import size_of, stack
from anomalib_lite.detectors.template import TemplateComparison, required
from anomalib_lite.scoring.separable import averaged, enlarged

LIGHT = (0.950456, 1.0, 1.088754)  # XYZ of white, D65
XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
LAB = ((0.0, 116.0, 0.0), (500.0, -500.0, 0.0), (0.0, 200.0, -200.0))  # of the roots of XYZ; 16 is taken off the first
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
        whole = {"fine": fine, "middle": rest[0], "deep": stack(rest, coarse)}
        kept = {name: getattr(self, f"{name}_kept") for name in whole}
        return {name: look if len(kept[name]) == look.shape[1] else look[:, kept[name]] for name, look in whole.items()}


def appearance(image: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) in [0, 1] -> colour (B, 6, *grid) and sharpness (B, 1, *grid)."""
    cell = min(image.shape[-2:]) / min(grid)  # px; what is averaged over one is already blurred by its side / sqrt(12)
    unit = min(image.shape[-2:]) / 256
    lab = F.adaptive_avg_pool2d(rgb_to_lab(halved(image)), grid)
    sigmas = [max((scale * unit / cell) ** 2 - 1 / 12, 0.0) ** 0.5 for scale in COLOUR_SCALES]
    light = 100 * F.conv2d(image, image.new_tensor(GREY).view(1, 3, 1, 1))
    down = (light[:, :, 2:] - light[:, :, :-2]).square()
    across = (light[..., 2:] - light[..., :-2]).square()
    energy = (averaged(down, grid) + averaged(across, grid)) / 4
    sharpness = blurred(energy, SHARPNESS_SCALE * unit / cell)
    return torch.cat([blurred(lab, sigma) for sigma in sigmas], 1), (sharpness + 0.5).log()


def halved(image: Tensor) -> Tensor:
    """Images (B, 3, H, W) -> means of 2 x 2 px, of those that there are at the border.

    A convolution takes half as long as torch's pooling, and OpenVINO's would have each pixel padded to 16 channels.
    """
    height, width = size_of(image)
    whole = F.pad(image, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else image
    return F.conv2d(whole, image.new_full((3, 1, 2, 2), 0.25), stride=2, groups=3)


def rgb_to_lab(image: Tensor) -> Tensor:
    """sRGB (B, 3, H, W) in [0, 1] -> CIE Lab of the same shape, lightness 0 to 100, white point D65."""
    light = (image.clamp_min(0.04045) + 0.055) / 1.055
    linear = torch.where(image > 0.04045, light.square() * (0.4 * light.log()).exp(), image / 12.92)  # light ** 2.4
    matrix = image.new_tensor(XYZ) / image.new_tensor(LIGHT)[:, None]
    xyz = F.conv2d(linear, matrix[:, :, None, None])
    root = torch.where(xyz > 0.008856, (xyz.clamp_min(0.008856).log() / 3).exp(), 7.787 * xyz + 16 / 116)
    return F.conv2d(root, image.new_tensor(LAB)[:, :, None, None], image.new_tensor((-16.0, 0.0, 0.0)))


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """Gaussian blur over three standard deviations, borders repeated: (B, C, H, W) -> the same shape."""
    return enlarged(picture, size_of(picture), sigma, 3, "edge") if sigma * 3 >= 0.5 else picture
