"""Multi-domain style transfer with disentangled content and attribute."""

from anomalib_lite.generators.histaugan.generator import HistAuGAN

__all__ = ["HistAuGAN"]
