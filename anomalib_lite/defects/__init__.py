"""From the anomaly map to the defect: where it is, of which type, and how bad."""

from anomalib_lite.defects.defect import Defect, Inspection
from anomalib_lite.defects.inspect import Inspector, load_inspector, prepare_inspector
from anomalib_lite.defects.levels import LevelsOfMaps, MapLevels

__all__ = ["Defect", "Inspection", "Inspector", "LevelsOfMaps", "MapLevels", "load_inspector", "prepare_inspector"]
