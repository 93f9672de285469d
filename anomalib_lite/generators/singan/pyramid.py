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

from anomalib_lite.data.decode import resize_image
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path
from anomalib_lite.settings.training import Shape

START, SCALE = "start.safetensors", "scale-{:02d}.safetensors"
Size = tuple[int, int]
LAYERS = 5  # 3 x 3 convolutions without padding, each of which removes one pixel from each side


class ScaleGenerator(nn.Module):
    """Adds the detail of its scale to the upsampled image of the scale below (Shaham et al., ICCV 2019, figure 5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_blocks(width), nn.Conv2d(width, 3, 3), nn.Tanh())

    def forward(self, noise: Tensor, previous: Tensor) -> Tensor:
        """Refines `previous` with `noise`, both (B, 3, H, W).

        Only the input is padded, so that inner layers do not see an artificial border.
        """
        return self.body(F.pad(noise + previous, [LAYERS] * 4)) + previous


class Critic(nn.Module):
    """A Wasserstein critic (without sigmoid), (B, 3, H, W) to (B, 1, H - 10, W - 10): an output per 11 x 11 patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_blocks(width), nn.Conv2d(width, 1, 3))

    def forward(self, image: Tensor) -> Tensor:
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
    """Returns the number of channels at a scale, which doubles every four scales."""
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


class Scale(nn.Module):
    """One scale of a pyramid. critic: the next scale's starts from it. amplitude: standard deviation of the noise."""

    def __init__(self, size: Size, width: int, amplitude: float = 1.0) -> None:
        super().__init__()
        self.size, self.width, self.amplitude = size, width, amplitude
        self.generator, self.critic = ScaleGenerator(width), Critic(width)
        self.to(memory_format=torch.channels_last)  # a quarter faster on CPUs

    def write(self, path: Path) -> None:
        notes = {"amplitude": torch.tensor(self.amplitude, dtype=torch.float64), "size": torch.tensor(self.size)}
        networks = {name: value.contiguous() for name, value in self.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(notes | networks, temporary)


def read_scale(path: Path) -> Scale | None:
    """Reads a scale on the CPU, in eval mode; None if there is no such file."""
    if not path.is_file():
        return None
    networks = load_file(path)
    (height, width), amplitude = networks.pop("size").tolist(), float(networks.pop("amplitude"))
    scale = Scale((height, width), len(networks["generator.body.0.0.bias"]), amplitude)
    scale.load_state_dict(networks)
    return scale.eval()


def climb(scales: Sequence[Scale], noises: Sequence[Tensor], image: Tensor | None = None) -> list[Tensor]:
    """Runs the scales one after the other, and returns the image after each.

    noises: (1, 3, H, W) for each scale, which also set the images' sizes. image: input of the first scale, of any size;
    None for zeros, the input of the coarsest scale.
    """
    images = []
    for scale, noise in zip(scales, noises, strict=True):
        previous = torch.zeros_like(noise) if image is None else resize(image, noise.shape[-2:])
        image = scale.generator(scale.amplitude * noise, previous)
        images.append(image)
    return images


@dataclass
class Pyramid:
    """A pyramid of GANs trained on one image, coarsest scale first."""

    content: int  # index of the image among the OK images
    real: Tensor  # the image at the finest scale, (1, 3, H, W) in [-1, 1]
    fixed_noise: Tensor  # (1, 3, h, w) at the coarsest scale, reconstructs `real`; at finer scales it is zero
    sizes: list[Size]  # of all scales
    scales: list[Scale] = field(default_factory=list)  # the finished ones

    def to(self, device: torch.device | str) -> Pyramid:
        self.real, self.fixed_noise = self.real.to(device), self.fixed_noise.to(device)
        for scale in self.scales:
            scale.to(device)
        return self

    def write_start(self, folder: Path) -> None:
        """Writes what the training starts from; `read_pyramid` reads it with the scales."""
        with atomic_path(folder / START) as temporary:
            save_file({"pixels": to_pixels(self.real), "fixed_noise": self.fixed_noise}, temporary)

    @torch.no_grad()
    def reconstruct(self, count: int | None = None) -> list[Tensor]:
        """Reconstructs the training image at each of the `count` coarsest scales; None for all scales."""
        scales = self.scales[:count]
        finer = [self.fixed_noise.new_zeros(1, 3, *scale.size) for scale in scales[1:]]
        return climb(scales, [self.fixed_noise, *finer][: len(scales)])

    def check_start(self, start_scale: int) -> None:
        if not 0 <= start_scale < len(self.sizes):
            raise UserError(
                f"start_scale must be 0 to {len(self.sizes) - 1} with {len(self.sizes)} scales, not {start_scale}."
            )

    @torch.no_grad()
    def sample(self, start_scale: int, draw: torch.Generator, stretch: Sequence[float] = (1.0, 1.0)) -> Tensor:
        """Draws a new image (1, 3, H, W) in [-1, 1]; the scales below `start_scale` reconstruct the training image."""
        self.check_start(start_scale)
        below = self.reconstruct(start_scale)[-1] if start_scale else None
        scales = self.scales[start_scale:]
        sizes = [(round(s.size[0] * stretch[0]), round(s.size[1] * stretch[1])) for s in scales]
        return climb(scales, random_noise(draw, sizes, self.real.device, start_scale), below)[-1]

    def next_scale(self, shape: Shape, draw: torch.Generator) -> Scale:
        """Returns an untrained scale; its networks start from those of the scale below if they have the same width."""
        number = len(self.scales)
        scale = Scale(self.sizes[number], channels(number, shape.width, shape.max_width))
        if self.scales:
            error = rmse(resize(self.real, scale.size), resize(self.reconstruct()[-1], scale.size))
            scale.amplitude = shape.noise * error
        if self.scales and self.scales[-1].width == scale.width:
            scale.load_state_dict(self.scales[-1].state_dict())
        else:
            initialise(scale, draw)
        return scale


def new_pyramid(pixels: np.ndarray, content: int, shape: Shape, seed: Sequence[int]) -> Pyramid:
    """Returns a pyramid without scales for an image, uint8 (H, W, 3); `seed` is unique to this pyramid."""
    sizes = pyramid_sizes(pixels.shape[0], pixels.shape[1], shape.factor, shape.max_size, shape.min_size)
    fixed = torch.randn(1, 1, *sizes[0], generator=seeded(*seed, len(sizes))).repeat(1, 3, 1, 1)
    return Pyramid(content, to_tensor(torch.from_numpy(resize_image(pixels, *sizes[-1]))), fixed, sizes)


def read_pyramid(folder: Path, content: int) -> Pyramid:
    """Reads a finished pyramid."""
    start, scales = load_file(folder / START), list[Scale]()
    while (scale := read_scale(folder / SCALE.format(len(scales)))) is not None:
        scales.append(scale)
    sizes = [scale.size for scale in scales]
    return Pyramid(content, to_tensor(start["pixels"]), start["fixed_noise"], sizes, scales)


def rmse(a: Tensor, b: Tensor) -> float:
    return float(F.mse_loss(a.double(), b.double()).sqrt())
