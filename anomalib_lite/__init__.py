"""anomalib_lite: find out which anomaly detector works for a product, prove it, and inspect with it."""

__version__ = "0.1.0"
