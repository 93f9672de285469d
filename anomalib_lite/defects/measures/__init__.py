"""What can be measured of a defect, and in which unit."""

from anomalib_lite.defects.measures.measure import UNITS, Scene, measure, occupied

__all__ = ["UNITS", "Scene", "measure", "occupied"]
