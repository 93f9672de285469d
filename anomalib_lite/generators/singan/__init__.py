"""SinGAN: new images from a single one."""

from anomalib_lite.generators.singan.generator import SinGAN
from anomalib_lite.generators.singan.training import Schedule, Shape

__all__ = ["Schedule", "Shape", "SinGAN"]
