"""Fine-tuning a backbone on a data set before it teaches."""

from anomalib_lite.backbones.finetuning.training import Outcome, Settings, finetune

__all__ = ["Outcome", "Settings", "finetune"]
