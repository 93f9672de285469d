"""Encoders, decoder and discriminators of one GAN, as in DRIT."""

import math
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.settings.training import Architecture

STRIDE = 4  # of the content
INIT_STD = 0.02  # of convolutions


class Networks(nn.Module):
    """Encoders, decoder and discriminators, and each domain's attributes.

    Wagner et al., "Structure-Preserving Multi-Domain Stain Color Augmentation Using Style-Transfer with Disentangled
    Representations", MICCAI 2021; Lee et al., "DRIT++", IJCV 2020. There is no content discriminator for one domain.
    attribute_mean, attribute_std: (domains, attributes), of the encoded training images, once trained.
    """

    attribute_mean: Tensor
    attribute_std: Tensor

    def __init__(self, architecture: Architecture, domains: int, crop: tuple[int, int], seed: int = 0) -> None:
        super().__init__()
        a = architecture
        self.architecture, self.domains, self.crop = architecture, domains, crop
        content = (crop[0] // STRIDE, crop[1] // STRIDE)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.content = ContentEncoder(a.channels, a.content_blocks)
            self.attribute = AttributeEncoder(domains, a.channels, a.attributes)
            self.decoder = Decoder(domains, a.channels, a.attributes, a.decoder_blocks)
            discriminator = (domains, crop, a.discriminator_channels, a.discriminator_layers)
            self.encoded_discriminator = ImageDiscriminator(*discriminator)  # of images with encoded attributes
            self.random_discriminator = ImageDiscriminator(*discriminator)  # of images with random attributes
            two = domains > 1
            self.content_discriminator = ContentDiscriminator(domains, 4 * a.channels, content) if two else None
            self.apply(partial(initialise, std=INIT_STD))
            self.attribute.apply(partial(initialise, std=a.attribute_init))
        self.register_buffer("attribute_mean", torch.zeros(domains, a.attributes))
        self.register_buffer("attribute_std", torch.ones(domains, a.attributes))

    def one_hot(self, domain: Tensor) -> Tensor:
        return F.one_hot(domain, self.domains).float()

    @torch.no_grad()
    def translate(self, image: Tensor, z: Tensor, domain: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of any size, attributes (B, attributes), domains (B,) int64 -> the images'
        content with these attributes, of the same size, in [0, 1].
        """
        height, width = image.shape[-2:]
        padded = F.pad(2 * image - 1, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        made = self.decoder(self.content(padded), z, self.one_hot(domain))
        return (made[..., :height, :width] + 1) / 2

    @torch.no_grad()
    def encode(self, image: Tensor, domain: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] and domains (B,) int64 -> the mean of their attributes, (B, attributes)."""
        return self.attribute(2 * image - 1, self.one_hot(domain))[0]


class ContentEncoder(nn.Sequential):
    """(B, 3, H, W) in [-1, 1] -> (B, 4 * channels, H/4, W/4).

    noise: adds N(0, 1) to the content, which keeps the encoder from hiding in it what the attribute should carry; given
    in training alone.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        wide = 4 * channels
        super().__init__(
            conv(3, channels, 7, padding=3),
            nn.LeakyReLU(),
            *_halving(channels, 2 * channels),
            *_halving(2 * channels, wide),
            *(ResidualBlock(wide) for _ in range(blocks)),
        )

    def forward(self, image: Tensor, noise: torch.Generator | None = None) -> Tensor:
        content = super().forward(image)
        if noise is None:
            return content
        return content + torch.randn(content.shape, generator=noise, device=content.device, dtype=content.dtype)


def _halving(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    return conv(n_in, n_out, 3, stride=2, padding=1), nn.InstanceNorm2d(n_out), nn.ReLU()


class AttributeEncoder(nn.Module):
    """(B, 3, H, W) in [-1, 1] and the domain's one-hot (B, D) -> mean and log-variance, each (B, attributes).

    Without normalisation, which would take colour and light away.
    """

    def __init__(self, domains: int, channels: int, attributes: int) -> None:
        super().__init__()
        widths = [channels * factor for factor in (1, 2, 3, 4)]
        self.body = nn.Sequential(
            conv(3 + domains, channels, 4, stride=2, padding=1),
            *(_PooledBlock(a, b) for a, b in pairwise(widths)),
            nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.mean = nn.Linear(widths[-1], attributes)
        self.log_variance = nn.Linear(widths[-1], attributes)

    def forward(self, image: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(append_vector(image, domain))
        return self.mean(features), self.log_variance(features)


class _PooledBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LeakyReLU(0.2),
            conv(n_in, n_in, 3, padding=1),
            nn.LeakyReLU(0.2),
            conv(n_in, n_out, 3, padding=1),
            nn.AvgPool2d(2),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), conv(n_in, n_out, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.body(features) + self.shortcut(features)


class Decoder(nn.Module):
    """(B, 4 * channels, h, w), z (B, attributes), one-hot (B, D) -> (B, 3, 4h, 4w) in [-1, 1].

    z is appended again before each of the last three layers; the one-hot once.
    """

    def __init__(self, domains: int, channels: int, attributes: int, blocks: int) -> None:
        super().__init__()
        wide = 4 * channels
        mixed = wide + domains + attributes
        half = (mixed + attributes) // 2
        quarter = (half + attributes) // 2
        self.shared = ResidualBlock(wide)
        self.mixing = nn.Sequential(*(ResidualBlock(mixed) for _ in range(blocks)))
        self.up1 = upsampling(mixed + attributes, half)
        self.up2 = upsampling(half + attributes, quarter)
        self.colours = nn.Sequential(conv(quarter + attributes, 3, 1), nn.Tanh())

    def forward(self, content: Tensor, z: Tensor, domain: Tensor) -> Tensor:
        features = self.mixing(append_vector(self.shared(content), domain, z))
        for layer in (self.up1, self.up2, self.colours):
            features = layer(append_vector(features, z))
        return features


class ImageDiscriminator(nn.Module):
    """Images (B, 3, H, W) -> real or fake logits (B, 1, h, w) and domain logits (B, D).

    Without instance norm, as the content discriminator: the official code names it, but builds it where the literal
    'norm' equals 'Instance', that is never. It would also take the content's channel means away, the plainest trace of
    a domain.

    crop: (height, width) that it is trained on. Stride-2 layers double the width, but for the last; small crops get
    fewer, down to one pixel. The domain head spans the floored size of what is left, as in the official code, and is
    averaged; the real or fake head is not padded, as it is there: padding only adds constant logits of zero, and the
    more of them, the smaller the crop.
    """

    def __init__(self, domains: int, crop: tuple[int, int], channels: int, layers: int) -> None:
        super().__init__()
        layers = min(layers, int(math.log2(min(crop))))
        widths = [3, *(channels * 2 ** min(i, layers - 2) for i in range(layers))]
        body = [(conv(a, b, 3, 2, 1), nn.LeakyReLU()) for a, b in pairwise(widths)]
        self.body = nn.Sequential(*(module for pair in body for module in pair))
        self.real = nn.Conv2d(widths[-1], 1, 1, bias=False)
        span = (crop[0] // 2**layers, crop[1] // 2**layers)
        self.domain = nn.Conv2d(widths[-1], domains, span, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(image)
        return self.real(features), self.domain(features).mean(dim=(2, 3))


class ContentDiscriminator(nn.Module):
    """Content (B, channels, h, w) -> domain logits (B, D).

    Up to three 7 x 7 stride-2 layers, as many as leave room for the 4 x 4 one: three for contents from 54 x 54 (where
    exactly one position is left), fewer for smaller ones. Positions that remain are averaged.
    """

    def __init__(self, domains: int, channels: int, content: tuple[int, int]) -> None:
        super().__init__()
        size, body = content, []
        for _ in range(3):
            smaller = ((size[0] - 5) // 2 + 1, (size[1] - 5) // 2 + 1)
            if min(smaller) < 4:
                break
            body += [conv(channels, channels, 7, 2, 1), nn.LeakyReLU()]
            size = smaller
        last = (min(4, size[0]), min(4, size[1]))
        body += [nn.Conv2d(channels, channels, last), nn.LeakyReLU(), nn.Conv2d(channels, domains, 1)]
        self.body = nn.Sequential(*body)

    def forward(self, content: Tensor) -> Tensor:
        return self.body(content).mean(dim=(2, 3))


def conv(n_in: int, n_out: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride, padding, padding_mode="reflect")


class ResidualBlock(nn.Sequential):
    """Two 3 x 3 convolutions with instance norm, added to their input; nothing after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            conv(channels, channels, 3, padding=1),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            conv(channels, channels, 3, padding=1),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + super().forward(features)


def upsampling(n_in: int, n_out: int) -> nn.Sequential:
    """Twice the size by a transposed convolution; layer norm over an image's channels and pixels, which keeps the mean
    and the variance of a channel, and with them colour and light, free to follow the attributes.
    """
    up = nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(up, nn.GroupNorm(1, n_out), nn.ReLU())


def append_vector(features: Tensor, *vectors: Tensor) -> Tensor:
    """(B, C, H, W) and vectors (B, V) -> (B, C + V, H, W), each vector repeated at all positions."""
    size = features.shape[-2:]
    tiled = [v.to(features.dtype)[:, :, None, None].expand(-1, -1, *size) for v in vectors]
    return torch.cat([features, *tiled], dim=1)


def initialise(module: nn.Module, std: float | None) -> None:
    """Convolutions' weights from N(0, std^2); None: from He's distribution for their own width.

    A fixed small std, as DRIT has it, suits its 64 channels and more. A narrow attribute encoder, which has no
    normalisation, would let next to nothing through, and answer the same to every image for many epochs.
    """
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return
    if std is None:
        nn.init.kaiming_normal_(module.weight, a=0.2)
    else:
        nn.init.normal_(module.weight, 0.0, std)
