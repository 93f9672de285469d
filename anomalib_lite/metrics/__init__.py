"""Image and pixel metrics that can be added up over batches, processes and defect types."""

from anomalib_lite.metrics.alarms import ALARM_METRICS, PIXEL_ALARM_METRICS, alarm_metrics
from anomalib_lite.metrics.grouped import GroupedPixelMetrics
from anomalib_lite.metrics.image import IMAGE_METRICS, ImageMetrics, image_metrics
from anomalib_lite.metrics.pixel import PIXEL_METRICS, PixelMetrics
from anomalib_lite.metrics.result import MetricResult

__all__ = [
    "ALARM_METRICS",
    "IMAGE_METRICS",
    "PIXEL_ALARM_METRICS",
    "PIXEL_METRICS",
    "GroupedPixelMetrics",
    "ImageMetrics",
    "MetricResult",
    "PixelMetrics",
    "alarm_metrics",
    "image_metrics",
]
