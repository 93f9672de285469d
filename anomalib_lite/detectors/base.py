"""What every detector is: images in, anomaly maps and scores out, through one path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn

from anomalib_lite.augment.transforms import Augment
from anomalib_lite.augment.tta import TestTimeAugmentation
from anomalib_lite.data.sample import Batch


class Batches(Protocol):
    """A loader that can be gone through several times, in the samples' order."""

    dataset: Sized

    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...


class Prediction(NamedTuple):
    """map: (B, 1, H, W) float32 >= 0, larger is more anomalous. score: (B,)."""

    map: Tensor
    score: Tensor


class Detector(LightningModule):
    """Base of all detectors. A subclass gives `anomaly_map` and, as it needs them, the steps before and after training.

    Training, evaluation, prediction and export all go through `forward`: normalisation, test-time augmentation,
    smoothing and the image score lie inside. `blur` maps (B, 1, H, W) to the same shape; `score` maps it to (B,).
    tta: the views of a test image; None: the image as it is. augment: random changes of the training batches, or None.
    """

    epochs: int = 0  # 0: nothing is trained by gradient
    after_training: tuple[str, ...] = ()  # settings that the training itself does not depend on
    needs_template: bool = False
    notes: Mapping[str, Any]  # what was chosen on the way, for status.json

    def __init__(
        self,
        blur: nn.Module,
        score: nn.Module,
        tta: TestTimeAugmentation | None = None,
        augment: Augment | None = None,
    ) -> None:
        super().__init__()
        self.blur, self.score = blur, score
        self.tta, self.augment = tta or TestTimeAugmentation(), augment
        self.notes = {}

    def forward(self, image: Tensor, template: Tensor | None = None) -> Prediction:
        maps = []
        for number, view in enumerate(self.tta.views):
            seen = None if template is None else view.apply(template)
            maps.append(view.undo(self.anomaly_map(view.apply(image), seen, number)))
        return self.finish(self.tta.reduce(maps), image.shape[-2:])

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Training batches are augmented; a resumed training draws what an undisturbed one would have drawn."""
        if self.augment is None or not self.trainer.training:
            return batch
        return self.augment(batch, self.trainer.global_step, self.global_rank)

    def finish(self, coarse: Tensor, size: Sequence[int]) -> Prediction:
        """A coarse map (B, 1, h, w) -> the map at the image's size, smoothed, and its score."""
        fine = F.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=False)
        smooth = self.blur(fine)
        return Prediction(smooth, self.score(smooth))

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, 1, h, w) >= 0, at any resolution.

        view: which of the `tta.views` the images are seen in; what was learnt for each position differs between them.
        """
        raise NotImplementedError(f"{type(self).__name__} must define anomaly_map")

    def prepare(self, batches: Batches) -> None:
        """Before training: statistics of the OK images."""

    def trained_state(self) -> dict[str, Tensor]:
        """The part of the state dict that training changed."""
        return {}

    def calibrate(self, batches: Batches) -> None:
        """After training: what the detector's own errors on the OK images look like."""

    @torch.inference_mode()
    def predict_batch(self, batch: Batch) -> Prediction:
        self.eval()
        image = batch.image.to(self.device, memory_format=torch.channels_last)
        template = None if batch.template is None else batch.template.to(self.device)
        return self(image, template)


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Losses (B,) of a batch, weighted (B,): a sample of weight 2 counts as two copies of it of weight 1.

    Where several processes hold parts of the batch, the mean of their results is that of the whole batch.
    """
    return (losses * weight).sum() / _mean_of_processes(weight.sum()).clamp_min(1e-12)


def _mean_of_processes(own: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return own
    total = own.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
