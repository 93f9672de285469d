"""From an anomaly map to a smoothed map, an image score and a threshold."""

from anomalib_lite.scoring.image_score import GaussianBlur, MaxScore, TopKScore
from anomalib_lite.scoring.threshold import Threshold, threshold_from_ok

__all__ = ["GaussianBlur", "MaxScore", "Threshold", "TopKScore", "threshold_from_ok"]
