"""Student-teacher feature pyramid matching, calibrated on OK images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_lite.augment.transforms import Augment
from anomalib_lite.augment.tta import TestTimeAugmentation, View
from anomalib_lite.backbones import Backbone
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.base import Batches, Detector, weighted_mean
from anomalib_lite.detectors.distances import check_fusion, fuse, half_squared_distance, mean_squared_distance
from anomalib_lite.detectors.feature_cache import FeatureCache
from anomalib_lite.detectors.selection import SelectedResidualModel
from anomalib_lite.detectors.whitening import Moments, Whitening


class STFPM(Detector):
    """A student learns a frozen teacher's features on OK images; where it errs, the image is anomalous.

    Wang, Han, Ding, Huang, "Student-Teacher Feature Pyramid Matching for Anomaly Detection", BMVC 2021. With
    `whitening` and `gaussian` None it is the paper's method. Two additions, each of which can be left out:
    whitening: the student learns, through a 1 x 1 convolution, the teacher's features whitened by their statistics on
    OK images, so that directions of small variance count as much as those of large variance.
    gaussian: the student's residual on OK images is modelled by Gaussians; their Mahalanobis distance is the map.

    backbone: makes the network; called as configured for the teacher and with `weights="none"` for the student.
    optimizer: makes the optimizer from the student's parameters; scheduler: the learning-rate schedule from the
    optimizer and `total_steps`, or None. fusion: `product` or `sum` of the levels' maps. cache_mb: memory for the
    teacher's features of the training images.
    """

    after_training = ("gaussian", "fusion", "cache_mb")

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        blur: nn.Module,
        score: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        epochs: int = 5,
        whitening: Callable[[], Whitening] | None = None,
        gaussian: SelectedResidualModel | None = None,
        fusion: str = "product",
        cache_mb: float = 2048,
        tta: TestTimeAugmentation | None = None,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(blur, score, tta, augment)
        check_fusion(fusion)
        self.teacher = backbone().requires_grad_(False)
        self.student = backbone(weights="none")
        channels = self.teacher.channels
        self.whitening = nn.ModuleList(whitening() for _ in channels) if whitening else None
        self.heads = nn.ModuleList(nn.Conv2d(c, c, 1) for c in channels) if whitening else None
        self.gaussian = gaussian
        self.optimizer, self.scheduler = optimizer, scheduler
        self.epochs, self.fusion = epochs, fusion
        self._cache = FeatureCache(self.teacher, cache_mb)
        self.to(memory_format=torch.channels_last)
        self.train()  # Lightning keeps the modes that it finds

    def train(self, mode: bool = True) -> STFPM:
        """The teacher never leaves eval mode: its batch statistics belong to its weights."""
        super().train(mode)
        self.teacher.eval()
        return self

    def prepare(self, batches: Batches) -> None:
        moments = [Moments() for _ in self.teacher.channels]
        for features in self._cache.fill(batches, "teacher's features"):
            if self.whitening is not None:
                for own, feature in zip(moments, features, strict=True):
                    own.update(feature.movedim(1, -1).flatten(0, 2))
        for whitening, own in zip(self.whitening or (), moments, strict=False):
            whitening.fit(own)

    def training_step(self, batch: Batch, step: int) -> Tensor:
        distances = self._distances(self._targets(self._cache.get(batch)), self._answers(batch.image))
        loss = torch.stack([weighted_mean(d.mean(dim=(1, 2, 3)), batch.weight) for d in distances]).sum()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, step: int) -> None:
        distances = self._distances(self._targets(self.teacher(batch.image)), self._answers(batch.image))
        loss = torch.stack([d.mean() for d in distances]).sum()
        self.log("val_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch), prog_bar=True)

    def configure_optimizers(self) -> Any:
        parameters = [*self.student.parameters(), *(self.heads.parameters() if self.heads else ())]
        optimizer = self.optimizer(parameters)
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def trained_state(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.state_dict().items() if k.startswith(("student.", "heads."))}

    @torch.no_grad()
    def calibrate(self, batches: Batches) -> None:
        if self.gaussian is not None:
            self.eval()
            self.gaussian.fit(batches, self._residuals_of, self.finish, self.tta.views)
            self.notes = {"residual_model": list(self.gaussian.candidates), "trials": self.gaussian.trials}
        self._cache.clear()

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        features = self.teacher(image)
        if self.gaussian is not None:
            return self.gaussian(self._residuals(features, image), view)
        return fuse(self._distances(self._targets(features), self._answers(image)), self.fusion)

    def _residuals_of(self, batch: Batch, view: View) -> list[Tensor]:
        batch = batch.to(self.device)
        image = view.apply(batch.image).contiguous(memory_format=torch.channels_last)
        return self._residuals(self._cache.get(batch) if view.identity else self.teacher(image), image)

    def _targets(self, features: list[Tensor]) -> list[Tensor]:
        if self.whitening is None:
            return features
        return [whiten(f) for whiten, f in zip(self.whitening, features, strict=True)]

    def _answers(self, image: Tensor) -> list[Tensor]:
        features = self.student(image)
        return features if self.heads is None else [h(f) for h, f in zip(self.heads, features, strict=True)]

    def _distances(self, targets: list[Tensor], answers: list[Tensor]) -> list[Tensor]:
        distance = half_squared_distance if self.whitening is None else mean_squared_distance
        return [distance(t, a) for t, a in zip(targets, answers, strict=True)]

    def _residuals(self, features: list[Tensor], image: Tensor) -> list[Tensor]:
        targets, answers = self._targets(features), self._answers(image)
        if self.whitening is None:  # the student has learned directions alone
            targets, answers = ([nn.functional.normalize(f, dim=1) for f in fs] for fs in (targets, answers))
        return [t - a for t, a in zip(targets, answers, strict=True)]
