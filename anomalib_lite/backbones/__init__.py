"""Name -> multi-scale features, and where their weights come from."""

from anomalib_lite.backbones.backbone import Backbone, build

__all__ = ["Backbone", "build"]
