"""STFPM: student-teacher feature pyramid matching, calibrated on OK images."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_lite.detectors.distillation import Distillation
from anomalib_lite.detectors.levels import mean_squared_distance
from anomalib_lite.detectors.model import MakeBackbone, MakeOptimizer, weighted_mean
from anomalib_lite.detectors.statistics import Modules, Whitening, moments_of


class STFPM(Distillation):
    """A student with the teacher's architecture learns its features on OK images; its errors are the anomaly map.

    Wang, Han, Ding, Huang, "Student-Teacher Feature Pyramid Matching for Anomaly Detection", BMVC 2021; the paper's
    method has neither `whitening` nor `gaussian`. `backbone` is also called with `weights="none"`, for the student.

    With `whitening`, the student learns, through a 1 x 1 convolution, the teacher's features whitened on OK images, so
    that directions of small variance count as much as those of large variance. With `gaussian`, the map is the
    Mahalanobis distance of the student's residual. Options: `settings.detectors.STFPM`.
    """

    learners = ("student", "heads")

    def __init__(
        self,
        backbone: MakeBackbone,
        optimizer: MakeOptimizer,
        whitening: Callable[[], Whitening] | None = None,
        fusion: str = "product",
        **settings: Any,
    ) -> None:
        super().__init__(backbone, optimizer, fusion=fusion, **settings)
        self.student = backbone(weights="none")
        channels = self.teacher.channels
        self.whitening = Modules[Whitening](whitening() for _ in channels) if whitening else None
        self.heads = nn.ModuleList(nn.Conv2d(c, c, 1) for c in channels) if whitening else None
        self.prepare_modules()

    def fit_statistics(self, batches: Iterable[list[Tensor]]) -> None:
        if self.whitening is None:
            return super().fit_statistics(batches)
        for whitening, moments in zip(self.whitening, moments_of(batches, by_position=False), strict=True):
            whitening.fit(moments)

    def answers(self, features: list[Tensor], image: Tensor) -> list[Tensor]:
        answers = self.student(image)
        return answers if self.heads is None else [h(f) for h, f in zip(self.heads, answers, strict=True)]

    def loss(self, targets: list[Tensor], answers: list[Tensor], weight: Tensor) -> Tensor:
        distances = self.distances(targets, answers)
        return torch.stack([weighted_mean(d.mean(dim=(1, 2, 3)), weight) for d in distances]).sum()

    def targets(self, features: list[Tensor]) -> list[Tensor]:
        if self.whitening is None:
            return features
        return [whiten(f) for whiten, f in zip(self.whitening, features, strict=True)]

    def distances(self, targets: list[Tensor], answers: list[Tensor]) -> list[Tensor]:
        if self.whitening is None:
            return super().distances(targets, answers)
        return [mean_squared_distance(t, a) for t, a in zip(targets, answers, strict=True)]

    def residuals(self, targets: list[Tensor], answers: list[Tensor]) -> list[Tensor]:
        if self.whitening is None:
            return super().residuals(targets, answers)
        return [t - a for t, a in zip(targets, answers, strict=True)]
