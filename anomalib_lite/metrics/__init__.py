"""Image and pixel metrics, added up batch by batch, over all images and by defect type.

Everywhere in this project an image or a pixel is flagged where its value > threshold.
"""

from anomalib_lite.metrics.image import ImageMetrics, MetricResult, alarm_metrics
from anomalib_lite.metrics.pixel import PixelMetrics, Regions

__all__ = ["ImageMetrics", "MetricResult", "PixelMetrics", "Regions", "alarm_metrics"]
