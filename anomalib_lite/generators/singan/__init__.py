"""SinGAN: new images from a single one."""

from anomalib_lite.generators.singan.generator import Schedule, Shape, SinGAN

__all__ = ["Schedule", "Shape", "SinGAN"]
