"""What every detector is: a method that makes anomaly maps, inside the one model that makes predictions of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn

from anomalib_lite.augment.transforms import Augment
from anomalib_lite.augment.tta import TestTimeAugmentation, View
from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.statistics import Fitted
from anomalib_lite.errors import UserError


class Batches(Protocol):
    """A loader that can be gone through several times, in the samples' order."""

    dataset: ImageSet

    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...


class Prediction(NamedTuple):
    """map: (B, 1, H, W) float32 >= 0, larger is more anomalous. score: (B,)."""

    map: Tensor
    score: Tensor


Finish = Callable[[Tensor, Sequence[int]], Prediction]  # a coarse map (B, 1, h, w) and the images' height and width


class Method(Fitted):
    """Base of all methods: one file each, no blur, score, views, augmentation or configuration file in it.

    Buffers may start empty: a saved method brings their shapes.

    A method must define `anomaly_map`. One that trains sets `epochs` above 0 and defines `training_step`,
    `validation_loss`, `configure_optimizers` and `trained_state`.
    """

    epochs: int = 0  # 0: nothing is trained by gradient
    after_training: tuple[str, ...] = ()  # names of settings that the training itself does not depend on
    needs_template: bool = False
    notes: Mapping[str, Any]  # what was chosen on the way, for status.json

    def __init__(self) -> None:
        super().__init__()
        self.notes = {}

    @property
    def device(self) -> torch.device:
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, 1, h, w) >= 0, at any resolution.

        view: number of the view that the images are seen in; what was learned for each position differs between views.
        """
        raise NotImplementedError(f"{type(self).__name__} must define anomaly_map")

    def shares(self, image: Tensor, template: Tensor | None = None) -> dict[str, Tensor]:
        """Of a method that fuses several kinds of evidence, the share (B,) of each in the highest place of the map."""
        return {}

    def prepare(self, batches: Batches) -> None:
        """Before training: statistics of the OK images."""

    def training_step(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    def validation_loss(self, batch: Batch) -> Tensor:
        """The loss of a batch of held-out OK images."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    def epoch_end(self) -> None:
        """After each epoch of the training, for a method that keeps the best one by a figure of its own."""

    def configure_optimizers(self, total_steps: int) -> Any:
        """What Lightning takes from `configure_optimizers`."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    def trained_state(self) -> dict[str, Tensor]:
        """The part of the state dict that training changed."""
        return {}

    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        """After training: what the method's own maps of OK images look like, in each view.

        finish: what the model makes of a coarse map, for a method that chooses between settings of its own.
        """


class Model(LightningModule):
    """A method with its views, smoothing and image score: the one path from images to maps and scores.

    Training, evaluation, prediction and export all go through `forward`: normalisation, test-time augmentation,
    smoothing and the image score lie inside.

    Args:
        method: Makes a coarse map of images.
        views: How a test image is looked at, and how the views' maps become one.
        blur: Maps (B, 1, H, W) to the same shape.
        score: Maps (B, 1, H, W) to (B,).
        augment: Random changes of the training batches, or None.
    """

    def __init__(
        self,
        method: Method,
        views: TestTimeAugmentation,
        blur: nn.Module,
        score: nn.Module,
        augment: Augment | None = None,
    ) -> None:
        super().__init__()
        self.method, self.views, self.augment = method, views, augment
        self.blur, self.score = blur, score

    def forward(self, image: Tensor, template: Tensor | None = None) -> Prediction:
        maps = []
        for number, view in enumerate(self.views.views):
            seen = None if template is None else view.apply(template)
            maps.append(view.undo(self.method.anomaly_map(view.apply(image), seen, number)))
        return self.finish(self.views.reduce(maps), image.shape[-2:])

    def finish(self, coarse: Tensor, size: Sequence[int]) -> Prediction:
        """A coarse map (B, 1, h, w) -> the map at the image's size, smoothed, and its score."""
        fine = F.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=False)
        smooth = self.blur(fine)
        return Prediction(smooth, self.score(smooth))

    def check(self, size: Sequence[int]) -> None:
        """Errors: UserError where images of this height and width cannot be judged."""
        if check := getattr(self.blur, "check", None):
            check(size)

    @torch.inference_mode()
    def predict_batch(self, batch: Batch) -> Prediction:
        self.eval()
        image = batch.image.to(self.device, memory_format=torch.channels_last)
        template = None if batch.template is None else batch.template.to(self.device)
        return self(image, template)

    @torch.inference_mode()
    def explain(self, image: Tensor, template: Tensor | None = None) -> list[dict[str, float]]:
        """For each image (B, 3, H, W), which evidence made its score, by name; empty where there is but one."""
        self.eval()
        view = self.views.views[0]
        image = view.apply(image.to(self.device))
        template = None if template is None else view.apply(template.to(self.device))
        shares = {name: share.tolist() for name, share in self.method.shares(image, template).items()}
        return [{name: round(share[k], 4) for name, share in shares.items()} for k in range(len(image))]

    def prepare(self, batches: Batches) -> None:
        self.method.prepare(batches)

    def calibrate(self, batches: Batches) -> None:
        self.eval()
        self.method.calibrate(batches, self.views.views, self.finish)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Training batches are augmented; a resumed training draws what an undisturbed one would have drawn."""
        if self.augment is None or not self.trainer.training:
            return batch
        return self.augment(batch, self.trainer.global_step, self.global_rank)

    def training_step(self, batch: Batch, step: int) -> Tensor:
        loss = self._logged("train_loss", self.method.training_step(batch), batch)
        if not loss.isfinite():
            raise UserError(
                f"The loss became {loss.item()} in epoch {self.current_epoch + 1}: the training has diverged. Lower "
                "the learning rate (detector.optimizer.lr), or take trainer.precision=32-true."
            )
        return loss

    def on_train_epoch_end(self) -> None:
        self.method.epoch_end()

    def validation_step(self, batch: Batch, step: int) -> None:
        self._logged("val_loss", self.method.validation_loss(batch), batch)

    def configure_optimizers(self) -> Any:
        return self.method.configure_optimizers(int(self.trainer.estimated_stepping_batches))

    def _logged(self, name: str, loss: Tensor, batch: Batch) -> Tensor:
        self.log(name, loss, on_step=False, on_epoch=True, batch_size=len(batch), prog_bar=True, sync_dist=True)
        return loss


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
