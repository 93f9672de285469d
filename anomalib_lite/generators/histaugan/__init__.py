"""HistAuGAN: multi-domain style transfer with disentangled content and attribute."""

from anomalib_lite.generators.histaugan.generator import HistAuGAN
from anomalib_lite.generators.histaugan.module import LossWeights, Schedule
from anomalib_lite.generators.histaugan.networks import Architecture

__all__ = ["Architecture", "HistAuGAN", "LossWeights", "Schedule"]
