"""The parts of one GAN together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_lite.generators.histaugan.decoder import Decoder
from anomalib_lite.generators.histaugan.discriminators import ContentDiscriminator, ImageDiscriminator
from anomalib_lite.generators.histaugan.encoders import AttributeEncoder, ContentEncoder
from anomalib_lite.generators.histaugan.layers import initialise

STRIDE = 4  # of the content
INIT_STD = 0.02  # of convolutions


@dataclass(frozen=True)
class Architecture:
    """Widths and depths; the defaults are the official ones. The content has 4 * channels channels.

    attribute_init: std of the attribute encoder's first weights, see `initialise`.
    """

    channels: int = 64
    attributes: int = 8
    content_blocks: int = 4
    decoder_blocks: int = 3
    discriminator_channels: int = 64
    discriminator_layers: int = 6
    attribute_init: float | None = INIT_STD


class Networks(nn.Module):
    """Encoders, decoder and discriminators, and each domain's attributes.

    Wagner et al., "Structure-Preserving Multi-Domain Stain Color Augmentation Using Style-Transfer with Disentangled
    Representations", MICCAI 2021; Lee et al., "DRIT++", IJCV 2020. There is no content discriminator for one domain.
    attribute_mean, attribute_std: (domains, attributes), of the encoded training images, once trained.
    """

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
