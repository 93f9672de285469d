"""Backbones by name, with multi-scale features and pretrained weights."""

from anomalib_lite.backbones.backbone import Backbone, build

__all__ = ["Backbone", "build"]
