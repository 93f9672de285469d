"""Image and pixel metrics, accumulated over batches, for all images and by defect type.

In the whole project an image or pixel is flagged if its value > threshold.
"""

from anomalib_lite.metrics.image import ImageMetrics, MetricResult, alarm_metrics
from anomalib_lite.metrics.pixel import PixelMetrics, Regions, pixel_f1

__all__ = ["ImageMetrics", "MetricResult", "PixelMetrics", "Regions", "alarm_metrics", "pixel_f1"]
