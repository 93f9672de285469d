"""From the anomaly map to the defect: where it is, of which type, and how bad."""

from anomalib_lite.defects.collect import DefectCollector
from anomalib_lite.defects.inspect import Defect, Inspector, load_inspector, prepare_inspector
from anomalib_lite.defects.regions import LevelsOfMaps, MapLevels

__all__ = [
    "Defect", "DefectCollector", "Inspector", "LevelsOfMaps", "MapLevels", "load_inspector", "prepare_inspector",
]  # fmt: skip
