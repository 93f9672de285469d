"""SinGAN: draws new images after training on a single one."""

from anomalib_lite.generators.singan.generator import SinGAN
from anomalib_lite.settings.training import ScaleSchedule as Schedule
from anomalib_lite.settings.training import Shape

__all__ = ["Schedule", "Shape", "SinGAN"]
