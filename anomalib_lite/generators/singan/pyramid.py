"""SinGAN's networks, and the pyramid of scales that they work on."""

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
PADDING = LAYERS  # each 3 x 3 convolution without padding removes one pixel from each side


class ScaleGenerator(nn.Module):
    """Adds the detail of its scale to the upsampled image of the scale below (Shaham et al., ICCV 2019, figure 5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.body = nn.Sequential(*_blocks(width), nn.Conv2d(width, 3, 3), nn.Tanh())
        self.to(memory_format=torch.channels_last)  # a quarter faster on CPUs

    def forward(self, noise: Tensor, previous: Tensor) -> Tensor:
        """Refines `previous` with `noise`, both (B, 3, H, W).

        Only the input is padded, so that inner layers do not see an artificial border.
        """
        return self.body(F.pad(noise + previous, [PADDING] * 4)) + previous


class Critic(nn.Module):
    """A Wasserstein critic (without sigmoid) with one output for each 11 x 11 patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_blocks(width), nn.Conv2d(width, 1, 3))
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Maps (B, 3, H, W) to (B, 1, H - 10, W - 10)."""
        return self.body(image)


def initialise(network: nn.Module, draw: torch.Generator) -> None:
    """Draws weights from N(0, 0.02^2) and batch-norm scales from N(1, 0.02^2); sets biases to 0."""
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
    """Computes the gradient penalty at a mixture of the real and the fake image: the mean of (norm - 1)^2 over pixels.

    As in the authors' code, the gradient is that of the sum of the critic's map, and its norm is taken over the colours
    of each pixel, not over the whole image. real, fake: (B, 3, H, W). share: of the real image, in [0, 1].
    """
    mixed = (share * real + (1 - share) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return ((gradient.norm(dim=1) - 1) ** 2).mean()


def rmse(a: Tensor, b: Tensor) -> float:
    """Computes the root mean squared error."""
    return float(F.mse_loss(a.double(), b.double()).sqrt())


@dataclass
class Scale:
    """One scale of a pyramid. critic: the next scale's starts from it. amplitude: standard deviation of the noise."""

    size: Size
    generator: ScaleGenerator
    critic: Critic
    amplitude: float = 1.0

    def to(self, device: torch.device | str) -> None:
        self.generator.to(device)
        self.critic.to(device)


@dataclass
class Pyramid:
    """A pyramid of GANs trained on one image.

    Attributes:
        content: Index of the image among the OK images.
        real: The image at the finest scale, (1, 3, H, W) in [-1, 1].
        fixed_noise: Noise (1, 3, h, w) at the coarsest scale that reconstructs `real`; at finer scales it is zero.
        sizes: (height, width) of all scales, coarsest first.
        scales: The finished scales.
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
    """Runs the scales one after the other, and returns the image after each.

    noises: (1, 3, H, W) for each scale, of standard deviation 1; they also set the images' sizes. image: input of the
    first scale, of any size; None for zeros, the input of the coarsest scale.
    """
    images = []
    for scale, noise in zip(scales, noises, strict=True):
        previous = torch.zeros_like(noise) if image is None else resize(image, noise.shape[-2:])
        image = scale.generator(scale.amplitude * noise, previous)
        images.append(image)
    return images


def seeded(*numbers: int) -> torch.Generator:
    """Returns a CPU random generator seeded by all the numbers."""
    # the count is included because SeedSequence does not distinguish (1, 0) from (1,)
    high, low = np.random.SeedSequence([len(numbers), *numbers]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(high) << 32 | int(low))


def random_noise(
    draw: torch.Generator, sizes: Sequence[Size], device: torch.device | str, first: int = 0
) -> list[Tensor]:
    """Draws noise (1, 3, H, W) for the scales from `first` on; at the coarsest scale all colours share one channel.

    Draws on the CPU, so that the noise is the same on any device.
    """
    drawn = [torch.randn(1, 1 if n == 0 else 3, *size, generator=draw) for n, size in enumerate(sizes, first)]
    return [noise.to(device).expand(-1, 3, -1, -1) for noise in drawn]


@torch.no_grad()
def reconstruct(pyramid: Pyramid, count: int | None = None) -> list[Tensor]:
    """Reconstructs the training image at each of the `count` coarsest scales; None for all scales."""
    scales = pyramid.scales[:count]
    finer = [pyramid.fixed_noise.new_zeros(1, 3, *scale.size) for scale in scales[1:]]
    return climb(scales, [pyramid.fixed_noise, *finer][: len(scales)])


def reconstruction_errors(pyramid: Pyramid) -> list[float]:
    """Computes the RMSE of the reconstruction at each scale, for images in [0, 1]."""
    return [rmse(image, resize(pyramid.real, image.shape[-2:])) / 2 for image in reconstruct(pyramid)]


def check_start(start_scale: int, scales: int) -> None:
    if not 0 <= start_scale < scales:
        raise UserError(f"start_scale must be 0 to {scales - 1} with {scales} scales, not {start_scale}.")


@torch.no_grad()
def random_sample(
    pyramid: Pyramid, start_scale: int, draw: torch.Generator, stretch: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Draws a new image (1, 3, H, W) in [-1, 1].

    start_scale: first scale with random noise; the scales below it reconstruct the training image. stretch: height and
    width relative to the training image.
    """
    check_start(start_scale, len(pyramid.scales))
    below = reconstruct(pyramid, start_scale)[-1] if start_scale else None
    scales = pyramid.scales[start_scale:]
    sizes = [(round(s.size[0] * stretch[0]), round(s.size[1] * stretch[1])) for s in scales]
    return climb(scales, random_noise(draw, sizes, pyramid.real.device, start_scale), below)[-1]


def pyramid_sizes(height: int, width: int, factor: float, max_size: int, min_size: int) -> list[Size]:
    """Returns (height, width) in px of each scale, coarsest first.

    The finest scale is the image, reduced if its long side exceeds `max_size`. The ratio of successive scales is
    `factor`, raised so that the coarsest short side is exactly `min_size`. The number of scales is that of the authors'
    code, which rounds up and adds one: 250 x 250 px gives 11. Raises UserError if the short side is not above
    `min_size`.
    Source: Shaham, Dekel, Michaeli, "SinGAN: Learning a Generative Model from a Single Natural Image", ICCV 2019.
    """
    short, long = sorted((height, width))
    reduced = min(max_size / long, 1)
    height, width = round(height * reduced), round(width * reduced)
    if min(height, width) <= min_size:
        raise UserError(
            f"The pyramid of an image of {height} x {width} px needs min_size, its coarsest short side, below "
            f"{min(height, width)} px, not {min_size}: use larger images, a larger max_size or a smaller min_size."
        )
    below, above = (math.ceil(math.log(ratio) / math.log(factor)) for ratio in (min_size / short, reduced))
    steps = below + 1 - above
    fitted = (min_size / min(height, width)) ** (1 / steps)
    return [(round(height * fitted**k), round(width * fitted**k)) for k in reversed(range(steps + 1))]


def channels(scale: int, least: int, most: int) -> int:
    """Returns the number of channels at a scale: doubled every four scales, at most `most`."""
    return min(least * 2 ** (scale // 4), most)


def resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes an image bicubically (a = -0.5, antialiased), clamped to [-1, 1]."""
    if image.shape[-2:] == tuple(size):
        return image
    return F.interpolate(image, size=list(size), mode="bicubic", antialias=True).clamp(-1, 1)


def to_tensor(pixels: Tensor) -> Tensor:
    """Converts uint8 (H, W, 3) to float32 (1, 3, H, W) in [-1, 1], the range of the networks."""
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


def to_pixels(image: Tensor) -> Tensor:
    """Converts (1, 3, H, W) in [-1, 1] to uint8 (H, W, 3)."""
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
    """Reads a scale on the CPU, its generator in eval mode; None if there is no such file."""
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
    """Reads a finished pyramid. content: index of its training image among the OK images."""
    start = load_file(folder / "start.safetensors")
    scales: list[Scale] = []
    while (scale := read_scale(folder, len(scales))) is not None:
        scales.append(scale)
    sizes = [scale.size for scale in scales]
    return Pyramid(content, to_tensor(start["pixels"]), start["fixed_noise"], sizes, scales)
