"""Feature maps of a fusion: colour, sharpness, backbone layers and template differences, in one backbone pass."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.augment.tta import GREY
from anomalib_lite.detectors.levels import size_of, stack
from anomalib_lite.detectors.model import MakeBackbone
from anomalib_lite.detectors.template import TemplateComparison, required
from anomalib_lite.scoring.maps import averaged, enlarged

WHITE = (0.950456, 1.0, 1.088754)  # XYZ of D65 white
XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
LAB = ((0.0, 116.0, 0.0), (500.0, -500.0, 0.0), (0.0, 200.0, -200.0))  # of the cube roots of XYZ; L also subtracts 16
COLOUR_SCALES = (1.5, 4.0)  # px, sigmas of the blur of colours, for an image of 256 px
SHARPNESS_SCALE = 4.0  # px, sigma of the blur of gradient energy, for an image of 256 px
NAMES = ("colour", "sharpness", "fine", "middle", "deep", "template")

FeatureMaps = dict[str, Tensor]


class FeatureExtractor(nn.Module):
    """Maps images (B, 3, H, W) in [0, 1] to feature maps (B, C, h, w) by name.

    `fine` is the backbone's first layer, `middle` its second, and `deep` stacks all but the first on the grid of the
    coarsest. The others are on the grid of `fine`: `colour` is CIE Lab at two scales, `sharpness` the log energy of the
    grey image's gradient, and `template` the differences from the template in each layer and in pixels, which `compare`
    makes. Of `fine`, `middle` and `deep` each, so many channels are kept; the seed draws them, as in PaDiM.
    """

    fine_kept: Tensor
    middle_kept: Tensor
    deep_kept: Tensor

    def __init__(
        self, backbone: MakeBackbone, channels: int, seed: int, compare: Callable[..., TemplateComparison] | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone().frozen()
        widths = self.backbone.channels
        generator = torch.Generator().manual_seed(seed)
        sizes = (widths[0], widths[min(1, len(widths) - 1)], sum(widths[1:]) or widths[0])
        for name, width in zip(("fine", "middle", "deep"), sizes, strict=True):
            self.register_buffer(f"{name}_kept", torch.randperm(width, generator=generator)[:channels].sort().values)
        self.channels = {"colour": 3 * len(COLOUR_SCALES), "sharpness": 1}
        self.channels |= {name: len(getattr(self, f"{name}_kept")) for name in ("fine", "middle", "deep")}
        self.compare = None if compare is None else compare(backbone=backbone)
        if self.compare is not None:
            self.channels["template"] = len(self.compare.weights)
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor, template: Tensor | None = None) -> FeatureMaps:
        maps = self.features(image)
        grid = size_of(maps["fine"])
        maps["colour"], maps["sharpness"] = appearance(image, grid)
        if self.compare is not None:
            pair = self.compare.align(image, required(template))
            maps["template"] = stack(self.compare.differences(image, *pair), grid)
        return maps

    def features(self, image: Tensor) -> FeatureMaps:
        """Computes the backbone's feature maps: `fine`, `middle` and `deep`."""
        features = self.backbone(image.contiguous(memory_format=torch.channels_last))
        fine, rest = features[0], features[1:] or features[:1]
        coarse = min((size_of(f) for f in rest), key=lambda s: s[0] * s[1])
        maps = {"fine": fine, "middle": rest[0], "deep": stack(rest, coarse)}
        kept = {name: getattr(self, f"{name}_kept") for name in maps}
        return {name: m if len(kept[name]) == m.shape[1] else m[:, kept[name]] for name, m in maps.items()}


def appearance(image: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Computes colour (B, 6, *grid) and sharpness (B, 1, *grid) of images (B, 3, H, W) in [0, 1]."""
    cell = min(image.shape[-2:]) / min(grid)  # px; averaging over a cell is a blur of sigma cell / sqrt(12)
    unit = min(image.shape[-2:]) / 256
    lab = F.adaptive_avg_pool2d(rgb_to_lab(halved(image)), grid)
    sigmas = [max((scale * unit / cell) ** 2 - 1 / 12, 0.0) ** 0.5 for scale in COLOUR_SCALES]
    grey = 100 * F.conv2d(image, image.new_tensor(GREY).view(1, 3, 1, 1))
    vertical = (grey[:, :, 2:] - grey[:, :, :-2]).square()
    horizontal = (grey[..., 2:] - grey[..., :-2]).square()
    energy = (averaged(vertical, grid) + averaged(horizontal, grid)) / 4
    sharpness = blurred(energy, SHARPNESS_SCALE * unit / cell)
    return torch.cat([blurred(lab, sigma) for sigma in sigmas], 1), (sharpness + 0.5).log()


def halved(image: Tensor) -> Tensor:
    """Averages blocks of 2 x 2 px of images (B, 3, H, W); border pixels are repeated for odd sizes.

    A convolution takes half as long as torch's pooling, and OpenVINO's pooling would pad each pixel to 16 channels.
    """
    height, width = size_of(image)
    padded = F.pad(image, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else image
    return F.conv2d(padded, image.new_full((3, 1, 2, 2), 0.25), stride=2, groups=3)


def rgb_to_lab(image: Tensor) -> Tensor:
    """Converts sRGB (B, 3, H, W) in [0, 1] to CIE Lab of the same shape, lightness 0 to 100, D65 white."""
    base = (image.clamp_min(0.04045) + 0.055) / 1.055
    linear = torch.where(image > 0.04045, base.square() * (0.4 * base.log()).exp(), image / 12.92)  # light ** 2.4
    matrix = image.new_tensor(XYZ) / image.new_tensor(WHITE)[:, None]
    xyz = F.conv2d(linear, matrix[:, :, None, None])
    root = torch.where(xyz > 0.008856, (xyz.clamp_min(0.008856).log() / 3).exp(), 7.787 * xyz + 16 / 116)
    return F.conv2d(root, image.new_tensor(LAB)[:, :, None, None], image.new_tensor((-16.0, 0.0, 0.0)))


def blurred(maps: Tensor, sigma: float) -> Tensor:
    """Blurs maps (B, C, H, W) by a Gaussian cut off at three standard deviations; borders are repeated."""
    return enlarged(maps, size_of(maps), sigma, 3, "edge") if sigma * 3 >= 0.5 else maps
