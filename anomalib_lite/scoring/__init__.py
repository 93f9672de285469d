"""Smoothing of anomaly maps, image scores and thresholds."""

from anomalib_lite.scoring.maps import GaussianBlur, MaxScore, TopKScore
from anomalib_lite.scoring.threshold import Threshold, threshold_from_ok

__all__ = ["GaussianBlur", "MaxScore", "Threshold", "TopKScore", "threshold_from_ok"]
