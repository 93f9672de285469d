"""Image and pixel metrics, added up batch by batch, over all images and by defect type.

Everywhere in this project an image or a pixel is flagged where its value > threshold.
"""

from anomalib_lite.metrics.counts import MetricResult
from anomalib_lite.metrics.image import ALARM_METRICS, IMAGE_METRICS, ImageMetrics, alarm_metrics, image_metrics
from anomalib_lite.metrics.pixel import PIXEL_METRICS, PixelMetrics, Regions

__all__ = [
    "ALARM_METRICS",
    "IMAGE_METRICS",
    "PIXEL_METRICS",
    "ImageMetrics",
    "MetricResult",
    "PixelMetrics",
    "Regions",
    "alarm_metrics",
    "image_metrics",
]
