"""HistAuGAN: multi-domain style transfer with disentangled content and attributes."""

from anomalib_lite.generators.histaugan.generator import HistAuGAN
from anomalib_lite.settings.training import Architecture, LossWeights
from anomalib_lite.settings.training import GANSchedule as Schedule

__all__ = ["Architecture", "HistAuGAN", "LossWeights", "Schedule"]
