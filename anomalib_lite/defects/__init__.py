"""Turns anomaly maps into defects: their place, type and severity."""

from anomalib_lite.defects.collect import DefectCollector
from anomalib_lite.defects.inspect import Defect, Inspector, load_inspector, prepare_inspector
from anomalib_lite.defects.regions import LevelsOfMaps, MapLevels, thinned

__all__ = [
    "Defect", "DefectCollector", "Inspector", "LevelsOfMaps", "MapLevels", "load_inspector", "prepare_inspector",
    "thinned",
]  # fmt: skip
