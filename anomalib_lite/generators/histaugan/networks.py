"""HistAuGAN's encoders, decoder and discriminators, as in DRIT."""

import math
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.settings.training import Architecture

STRIDE = 4  # px per position of the content
INIT_STD = 0.02  # standard deviation of the convolutions' initial weights
conv = partial(nn.Conv2d, padding_mode="reflect")


class Networks(nn.Module):
    """All networks of a HistAuGAN, and the statistics of each domain's attributes.

    Wagner et al., "Structure-Preserving Multi-Domain Stain Color Augmentation Using Style-Transfer with Disentangled
    Representations", MICCAI 2021; Lee et al., "DRIT++", IJCV 2020. With one domain there is no content discriminator.
    attribute_mean, attribute_std: of the encoded training images, (domains, attributes); set after the training.
    """

    attribute_mean: Tensor
    attribute_std: Tensor

    def __init__(self, architecture: Architecture, domains: int, crop: tuple[int, int], seed: int = 0) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.domains, self.crop = domains, crop
        content = (crop[0] // STRIDE, crop[1] // STRIDE)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.content = ContentEncoder(a.channels, a.content_blocks)
            self.attribute = AttributeEncoder(domains, a.channels, a.attributes)
            self.decoder = Decoder(domains, a.channels, a.attributes, a.decoder_blocks)
            discriminator = (domains, crop, a.discriminator_channels, a.discriminator_layers)
            self.encoded_discriminator = ImageDiscriminator(*discriminator)  # for images with encoded attributes
            self.random_discriminator = ImageDiscriminator(*discriminator)  # for images with random attributes
            several = domains > 1
            self.content_discriminator = ContentDiscriminator(domains, 4 * a.channels, content) if several else None
            initialise(self, INIT_STD)
            initialise(self.attribute, a.attribute_init)
        self.register_buffer("attribute_mean", torch.zeros(domains, a.attributes))
        self.register_buffer("attribute_std", torch.ones(domains, a.attributes))

    def one_hot(self, domain: Tensor) -> Tensor:
        return F.one_hot(domain, self.domains).float()

    @torch.no_grad()
    def translate(self, image: Tensor, z: Tensor, domain: Tensor) -> Tensor:
        """Gives images (B, 3, H, W) in [0, 1], of any size, new attributes z (B, attributes); keeps their content."""
        height, width = image.shape[-2:]
        padded = F.pad(2 * image - 1, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        decoded = self.decoder(self.content(padded), z, self.one_hot(domain))
        return (decoded[..., :height, :width] + 1) / 2

    @torch.no_grad()
    def encode(self, image: Tensor, domain: Tensor) -> Tensor:
        """Returns the mean attributes, (B, attributes), of images (B, 3, H, W) in [0, 1] and domains (B,) int64."""
        return self.attribute(2 * image - 1, self.one_hot(domain))[0]


class ContentEncoder(nn.Sequential):
    """Maps images (B, 3, H, W) in [-1, 1] to contents (B, 4 * channels, H/4, W/4).

    In training, N(0, 1) noise is added to the content, so that the encoder cannot hide attributes in it.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        layers = [conv(3, channels, 7, padding=3), nn.LeakyReLU()]
        for n_in, n_out in ((channels, 2 * channels), (2 * channels, 4 * channels)):
            layers += [conv(n_in, n_out, 3, stride=2, padding=1), nn.InstanceNorm2d(n_out), nn.ReLU()]
        super().__init__(*layers, *(ResidualBlock(4 * channels) for _ in range(blocks)))

    def forward(self, image: Tensor, noise: torch.Generator | None = None) -> Tensor:
        content = super().forward(image)
        if noise is None:
            return content
        return content + torch.randn(content.shape, generator=noise, device=content.device, dtype=content.dtype)


class AttributeEncoder(nn.Module):
    """Maps images (B, 3, H, W) in [-1, 1] and one-hot domains (B, D) to mean and log-variance, each (B, attributes).

    Has no normalisation, as that would remove colour and light.
    """

    def __init__(self, domains: int, channels: int, attributes: int) -> None:
        super().__init__()
        widths = [channels * factor for factor in (1, 2, 3, 4)]
        blocks = (_PooledBlock(n_in, n_out) for n_in, n_out in pairwise(widths))
        pooling = (nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.body = nn.Sequential(conv(3 + domains, channels, 4, stride=2, padding=1), *blocks, *pooling)
        self.mean = nn.Linear(widths[-1], attributes)
        self.log_variance = nn.Linear(widths[-1], attributes)

    def forward(self, image: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(append_vector(image, domain))
        return self.mean(features), self.log_variance(features)


class _PooledBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        layers = [layer for n in (n_in, n_out) for layer in (nn.LeakyReLU(0.2), conv(n_in, n, 3, padding=1))]
        self.body = nn.Sequential(*layers, nn.AvgPool2d(2))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), conv(n_in, n_out, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.body(features) + self.shortcut(features)


class Decoder(nn.Module):
    """Maps contents (B, 4 * channels, h, w), z (B, attributes) and one-hot domains (B, D) to (B, 3, 4h, 4w) in [-1, 1].

    The domain enters once, z again before each of the last three layers.
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
    """Maps images (B, 3, H, W) to real-or-fake logits (B, 1, h, w) and domain logits (B, D).

    Has no instance norm, nor has the content discriminator: the official code mentions it, but builds it only where the
    literal 'norm' equals 'Instance', which is never. It would also remove the channel means, the clearest trace of a
    domain.

    All stride-2 layers but the last double the number of channels; small crops get fewer layers, down to one pixel. The
    domain head spans the floored size of the remaining map, as in the official code, and is averaged. The real-or-fake
    head is not padded, unlike there: padding only adds constant logits of zero, the more the smaller the crop.
    """

    def __init__(self, domains: int, crop: tuple[int, int], channels: int, layers: int) -> None:
        super().__init__()
        layers = min(layers, int(math.log2(min(crop))))
        widths = [3, *(channels * 2 ** min(i, layers - 2) for i in range(layers))]
        self.body = nn.Sequential(
            *(layer for a, b in pairwise(widths) for layer in (conv(a, b, 3, 2, 1), nn.LeakyReLU()))
        )
        self.real = nn.Conv2d(widths[-1], 1, 1, bias=False)
        span = (crop[0] // 2**layers, crop[1] // 2**layers)
        self.domain = nn.Conv2d(widths[-1], domains, span, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(image)
        return self.real(features), self.domain(features).mean(dim=(2, 3))


class ContentDiscriminator(nn.Module):
    """Maps contents (B, channels, h, w) to domain logits (B, D).

    Has up to three 7 x 7 stride-2 layers, as many as leave room for the 4 x 4 layer: three for contents of at least
    54 x 54 (which leave exactly one position), else fewer. The remaining positions are averaged.
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


class ResidualBlock(nn.Sequential):
    """Two 3 x 3 convolutions with instance norm, added to their input; no activation after the sum."""

    def __init__(self, channels: int) -> None:
        first, second = (conv(channels, channels, 3, padding=1) for _ in range(2))
        super().__init__(first, nn.InstanceNorm2d(channels), nn.ReLU(), second, nn.InstanceNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        return features + super().forward(features)


def upsampling(n_in: int, n_out: int) -> nn.Sequential:
    """Returns a transposed convolution that doubles the size, layer norm and ReLU.

    The layer norm is over an image's channels and pixels, so that each channel's mean and variance, and with them
    colour and light, can follow the attributes.
    """
    up = nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(up, nn.GroupNorm(1, n_out), nn.ReLU())


def append_vector(features: Tensor, *vectors: Tensor) -> Tensor:
    """Appends vectors (B, V), repeated at all positions, to features (B, C, H, W): (B, C + V, H, W)."""
    size = features.shape[-2:]
    tiled = [v.to(features.dtype)[:, :, None, None].expand(-1, -1, *size) for v in vectors]
    return torch.cat([features, *tiled], dim=1)


def initialise(network: nn.Module, std: float | None) -> None:
    """Initialises the weights of all convolutions from N(0, std^2), or by He's method if std is None.

    DRIT's small fixed std suits 64 channels and more. A narrow attribute encoder, which has no normalisation, would
    then pass on almost no signal, and return the same for every image for many epochs.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if std is None:
                nn.init.kaiming_normal_(module.weight, a=0.2)
            else:
                nn.init.normal_(module.weight, 0.0, std)
