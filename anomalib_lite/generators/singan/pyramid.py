"""SinGAN: generators and critics of one image, and the pyramid of scales that they work on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path

Size = tuple[int, int]
LAYERS = 5
PADDING = LAYERS  # each unpadded 3 x 3 convolution takes one pixel from each side


class ScaleGenerator(nn.Module):
    """Adds the detail of its scale to the upsampled image of the scale below (Shaham et al., ICCV 2019, figure 5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.body = nn.Sequential(*_blocks(width), nn.Conv2d(width, 3, 3), nn.Tanh())
        self.to(memory_format=torch.channels_last)  # a quarter faster on CPUs

    def forward(self, noise: Tensor, previous: Tensor) -> Tensor:
        """noise, previous: (B, 3, H, W). The sum is padded with zeros before the first layer alone, so that no layer
        within sees a border of its own.
        """
        return self.body(F.pad(noise + previous, [PADDING] * 4)) + previous


class Critic(nn.Module):
    """One number for each 11 x 11 patch: a Wasserstein critic, so without a sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_blocks(width), nn.Conv2d(width, 1, 3))
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1, H - 10, W - 10)."""
        return self.body(image)


def initialise(network: nn.Module, draw: torch.Generator) -> None:
    """Weights N(0, 0.02), batch-norm scales N(1, 0.02), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            mean = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
            nn.init.normal_(module.weight, mean, 0.02, generator=draw)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def _blocks(width: int) -> list[nn.Module]:
    inputs = [3, *[width] * (LAYERS - 2)]
    return [nn.Sequential(nn.Conv2d(n, width, 3), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)) for n in inputs]


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """The mean over pixels of (length of the gradient over the colours - 1)^2, between the real and the fake image.

    real, fake: (B, 3, H, W). share: of the real image in the mixture, in [0, 1]. As the authors' code has it, the
    gradient is that of the sum of the critic's map, and its length is taken at each pixel, not over the whole image.
    """
    mixed = (share * real + (1 - share) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return ((gradient.norm(dim=1) - 1) ** 2).mean()


def rmse(a: Tensor, b: Tensor) -> float:
    """Root of the mean squared error, in the range of the images."""
    return float(F.mse_loss(a.double(), b.double()).sqrt())


@dataclass
class Scale:
    """amplitude: the standard deviation of the noise that this scale's generator gets. critic: it was trained against
    this one, from which the next scale's goes on.
    """

    size: Size
    generator: ScaleGenerator
    critic: Critic
    amplitude: float = 1.0

    def to(self, device: torch.device | str) -> None:
        self.generator.to(device)
        self.critic.to(device)


@dataclass
class Pyramid:
    """sizes: of all scales, coarsest first. scales: the finished ones. fixed_noise (1, 3, h, w): at the coarsest scale
    it gives back `real`; the finer scales' fixed noise is zero. real (1, 3, H, W): the image in [-1, 1] at the finest
    scale. content: its place among the OK images.
    """

    content: int
    real: Tensor
    fixed_noise: Tensor
    sizes: list[Size]
    scales: list[Scale] = field(default_factory=list)

    def to(self, device: torch.device | str) -> Pyramid:
        self.real, self.fixed_noise = self.real.to(device), self.fixed_noise.to(device)
        for scale in self.scales:
            scale.to(device)
        return self


def climb(scales: Sequence[Scale], noises: Sequence[Tensor], image: Tensor | None = None) -> list[Tensor]:
    """The image after each of the scales, as large as that scale's noise (1, 3, H, W) of standard deviation 1.

    image: what the first of the scales refines, of any size; None stands for nothing, as below the coarsest one.
    """
    images = []
    for scale, noise in zip(scales, noises, strict=True):
        previous = torch.zeros_like(noise) if image is None else resize(image, noise.shape[-2:])
        image = scale.generator(scale.amplitude * noise, previous)
        images.append(image)
    return images


def seeded(*numbers: int) -> torch.Generator:
    """A generator on the CPU whose values depend on all the numbers."""
    # the count comes along because a seed sequence takes (1, 0) for (1,)
    high, low = np.random.SeedSequence([len(numbers), *numbers]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(high) << 32 | int(low))


def random_noise(
    draw: torch.Generator, sizes: Sequence[Size], device: torch.device | str, first: int = 0
) -> list[Tensor]:
    """Noise (1, 3, H, W) for the scales from `first` on; one channel for all colours at the coarsest of the pyramid.

    Drawn on the CPU: the same on any device.
    """
    drawn = [torch.randn(1, 1 if n == 0 else 3, *size, generator=draw) for n, size in enumerate(sizes, first)]
    return [noise.to(device).expand(-1, 3, -1, -1) for noise in drawn]


@torch.no_grad()
def reconstruct(pyramid: Pyramid, count: int | None = None) -> list[Tensor]:
    """The training image as the pyramid remembers it, at each of the `count` coarsest scales, or at all."""
    scales = pyramid.scales[:count]
    finer = [pyramid.fixed_noise.new_zeros(1, 3, *scale.size) for scale in scales[1:]]
    return climb(scales, [pyramid.fixed_noise, *finer][: len(scales)])


def reconstruction_errors(pyramid: Pyramid) -> list[float]:
    """RMSE of the reconstruction at each scale, for images in [0, 1]."""
    return [rmse(image, resize(pyramid.real, image.shape[-2:])) / 2 for image in reconstruct(pyramid)]


def check_start(start_scale: int, scales: int) -> None:
    if not 0 <= start_scale < scales:
        raise UserError(f"start_scale is one of 0 to {scales - 1} with {scales} scales, but {start_scale} was given.")


@torch.no_grad()
def random_sample(
    pyramid: Pyramid, start_scale: int, draw: torch.Generator, stretch: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """A new image (1, 3, H, W) in [-1, 1].

    start_scale: below it the fixed noise keeps the training image's structure, from it on the noise is fresh; 0: all is
    new. stretch: height and width of the new image relative to the training image's.
    """
    check_start(start_scale, len(pyramid.scales))
    below = reconstruct(pyramid, start_scale)[-1] if start_scale else None
    scales = pyramid.scales[start_scale:]
    sizes = [(round(s.size[0] * stretch[0]), round(s.size[1] * stretch[1])) for s in scales]
    return climb(scales, random_noise(draw, sizes, pyramid.real.device, start_scale), below)[-1]


def pyramid_sizes(height: int, width: int, factor: float, max_size: int, min_size: int) -> list[Size]:
    """(height, width) in px of each scale, coarsest first.

    The finest is the image itself, reduced where its long side exceeds `max_size`. The factor from scale to scale is
    `factor`, raised so that the coarsest short side is `min_size` exactly. The number of scales is that of the authors'
    code, which rounds up and adds one more: 250 x 250 px gives 11.
    Errors: UserError where the short side is not above `min_size`.
    Source: Shaham, Dekel, Michaeli, "SinGAN: Learning a Generative Model from a Single Natural Image", ICCV 2019.
    """
    short, long = sorted((height, width))
    reduced = min(max_size / long, 1)
    height, width = round(height * reduced), round(width * reduced)
    if min(height, width) <= min_size:
        raise UserError(
            f"A pyramid of an image of {height} x {width} px needs a coarsest short side (min_size) below "
            f"{min(height, width)} px, not {min_size}. Give larger images, a larger max_size or a smaller min_size."
        )
    below, above = (math.ceil(math.log(ratio) / math.log(factor)) for ratio in (min_size / short, reduced))
    steps = below + 1 - above
    fitted = (min_size / min(height, width)) ** (1 / steps)
    return [(round(height * fitted**k), round(width * fitted**k)) for k in reversed(range(steps + 1))]


def channels(scale: int, least: int, most: int) -> int:
    """Of every layer at a scale: doubled every fourth one."""
    return min(least * 2 ** (scale // 4), most)


def resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Bicubic with a = -0.5, area-aware where it shrinks, kept within [-1, 1]."""
    if image.shape[-2:] == tuple(size):
        return image
    return F.interpolate(image, size=list(size), mode="bicubic", antialias=True).clamp(-1, 1)


def to_tensor(pixels: Tensor) -> Tensor:
    """uint8 (H, W, 3) -> float32 (1, 3, H, W) in [-1, 1], the range of the networks."""
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


def to_pixels(image: Tensor) -> Tensor:
    """(1, 3, H, W) in [-1, 1] -> uint8 (H, W, 3)."""
    return ((image[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().contiguous()


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def _scale_file(folder: Path, number: int) -> Path:
    return folder / f"scale-{number:02d}.safetensors"


def write_scale(folder: Path, number: int, scale: Scale) -> None:
    tensors = {"amplitude": torch.tensor(scale.amplitude, dtype=torch.float64), "size": torch.tensor(scale.size)}
    for name, network in (("generator", scale.generator), ("critic", scale.critic)):
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in network.state_dict().items()}
    write_tensors(_scale_file(folder, number), tensors)


def read_scale(folder: Path, number: int) -> Scale | None:
    """In eval mode, on the CPU; None where there is none."""
    path = _scale_file(folder, number)
    if not path.is_file():
        return None
    tensors = load_file(path)
    channels = len(tensors["generator.body.0.0.bias"])
    generator, critic = ScaleGenerator(channels).eval(), Critic(channels)
    for name, network in (("generator", generator), ("critic", critic)):
        network.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    height, width = tensors["size"].tolist()
    return Scale((height, width), generator, critic, float(tensors["amplitude"]))


def read_pyramid(folder: Path, content: int) -> Pyramid:
    """A finished pyramid. content: place among the OK images of the one that it was trained on."""
    start = load_file(folder / "start.safetensors")
    scales: list[Scale] = []
    while (scale := read_scale(folder, len(scales))) is not None:
        scales.append(scale)
    sizes = [scale.size for scale in scales]
    return Pyramid(content, to_tensor(start["pixels"]), start["fixed_noise"], sizes, scales)
