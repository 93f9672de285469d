"""Base classes of detectors that train a student on a frozen teacher's features."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.augment.transforms import torch_seed
from anomalib_lite.augment.tta import View
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.levels import fuse, half_squared_distance
from anomalib_lite.detectors.model import Batches, Finish, MakeBackbone, MakeOptimizer, Method
from anomalib_lite.detectors.residual import SelectedResidualModel


class FeatureLearner(Method):
    """Base of detectors trained on a frozen backbone's features.

    A subclass builds its networks, calls `prepare_modules`, and defines `loss_of`.

    Args:
        backbone: Makes the teacher.
        optimizer, scheduler: Make them, from the parameters of the attributes named in `learners`, and from the
            optimizer and `total_steps`.
        folds: Holds out every `folds`-th training image, listed in `held_out`, for tuning; None: holds out none.
        seed: Seeds random numbers of the training steps, so that a resumed training repeats them; None: not seeded.
    """

    after_training: tuple[str, ...] = ("cache_mb",)
    learners: tuple[str, ...]
    step: Tensor

    def __init__(
        self,
        backbone: MakeBackbone,
        optimizer: MakeOptimizer,
        scheduler: Callable[..., Any] | None = None,
        epochs: int = 5,
        steps: int = 0,
        cache_mb: float = 2048,
        folds: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.teacher = backbone().frozen()
        self.optimizer, self.scheduler, self.epochs, self.steps = optimizer, scheduler, epochs, steps
        self.folds, self.seed = folds, seed
        if seed is not None:
            self.register_buffer("step", torch.tensor(0))
        self.held_out: list[int] = []
        self.cache = FeatureCache(self.features, cache_mb)

    def prepare_modules(self) -> None:
        """Called by subclasses once their networks exist."""
        self.to(memory_format=torch.channels_last)
        self.train()  # Lightning keeps the mode of each module

    def features(self, image: Tensor) -> list[Tensor]:
        """Computes the training features (B, C, h, w) of images (B, 3, H, W), by level; fixed during training."""
        return self.teacher(image)

    def loss_of(self, features: list[Tensor], batch: Batch, weight: Tensor) -> Tensor:
        """Returns the loss of a batch, given its features and the images' weights (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define loss_of")

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; the teacher stays in eval mode, since its batch statistics belong to its weights."""
        super().train(mode)
        self.teacher.eval()
        return self

    def prepare(self, batches: Batches) -> None:
        if self.folds is not None:
            self.held_out = list(range(0, len(batches.dataset), self.folds))
        self.fit_statistics(self.cache.fill(batches, "teacher's features"))

    def fit_statistics(self, batches: Iterable[list[Tensor]]) -> None:
        """Called before training with the features of all OK images; subclasses must exhaust the iterator."""
        for _ in batches:
            pass

    def training_step(self, batch: Batch) -> Tensor:
        features, weight = self.cache.get(batch), self.weights(batch)
        if self.seed is None:
            return self.loss_of(features, batch, weight)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(torch_seed((self.seed, int(self.step))))
            loss = self.loss_of(features, batch, weight)
        self.step += 1
        return loss

    def weights(self, batch: Batch) -> Tensor:
        """Returns the images' weights (B,) in the loss, 0 for held-out images if there are at least two."""
        if len(self.held_out) < 2:
            return batch.weight
        return batch.weight * ~torch.isin(batch.index, torch.tensor(self.held_out)).to(batch.weight.device)

    def validation_loss(self, batch: Batch) -> Tensor:
        return self.loss_of(self.features(batch.image), batch, torch.ones_like(batch.weight))

    def forget(self) -> None:
        self.cache.clear()

    def configure_optimizers(self, total_steps: int) -> Any:
        optimizer = self.optimizer(self.learned())
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer, total_steps=total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def learned(self) -> list[Any]:
        """Returns the parameters to train, or parameter groups."""
        parts = (getattr(self, name) for name in self.learners)
        return [p for part in parts if part is not None for p in part.parameters()]

    def trained_state(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.state_dict().items() if k.split(".")[0] in self.learners}


class Distillation(FeatureLearner):
    """Base of detectors that train a student. A subclass defines `answers` and `loss`.

    With `gaussian`, the map is the Mahalanobis distance of the student's residual; without, that between teacher and
    student, fused over the levels by `fusion`.
    """

    fitted = ("gaussian",)
    after_training = ("gaussian", "fusion", "cache_mb")

    def __init__(
        self,
        backbone: MakeBackbone,
        optimizer: MakeOptimizer,
        gaussian: SelectedResidualModel | None = None,
        fusion: str = "sum",
        **training: Any,
    ) -> None:
        super().__init__(backbone, optimizer, **training)
        self.gaussian, self.fusion = gaussian, fusion
        if gaussian is not None:
            gaussian.restrict_to(len(self.teacher.channels))

    def answers(self, features: list[Tensor], image: Tensor) -> list[Tensor]:
        """Returns the student's output by level, given an image (B, 3, H, W) and the teacher's features of it."""
        raise NotImplementedError(f"{type(self).__name__} must define answers")

    def loss(self, targets: list[Tensor], answers: list[Tensor], weight: Tensor) -> Tensor:
        """Returns the loss, given the images' weights (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define loss")

    def targets(self, features: list[Tensor]) -> list[Tensor]:
        """Returns the features that the student should reproduce."""
        return features

    def distances(self, targets: list[Tensor], answers: list[Tensor]) -> list[Tensor]:
        """Returns the distance (B, 1, h, w) of each level."""
        return [half_squared_distance(t, a) for t, a in zip(targets, answers, strict=True)]

    def residuals(self, targets: list[Tensor], answers: list[Tensor]) -> list[Tensor]:
        """Returns the residual (B, C, h, w) of each level, of normalised features: the loss ignores their length."""
        return [F.normalize(t, dim=1) - F.normalize(a, dim=1) for t, a in zip(targets, answers, strict=True)]

    def loss_of(self, features: list[Tensor], batch: Batch, weight: Tensor) -> Tensor:
        return self.loss(self.targets(features), self.answers(features, batch.image), weight)

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        if self.gaussian is not None:
            self.gaussian.fit(batches, self._residuals_of, finish, views, self.region)
            self.notes = {"residual_model": list(self.gaussian.candidates), "trials": self.gaussian.trials}
        self.cache.clear()

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        features = self.features(image)
        targets, answers = self.targets(features), self.answers(features, image)
        if self.gaussian is not None:
            return self.gaussian(self.residuals(targets, answers), view)
        return fuse(self.distances(targets, answers), self.fusion)

    def _residuals_of(self, batch: Batch, view: View) -> list[Tensor]:
        batch = batch.to(self.device)
        image = view.apply(batch.image).contiguous(memory_format=torch.channels_last)
        features = self.cache.get(batch) if view.identity else self.features(image)
        return self.residuals(self.targets(features), self.answers(features, image))


class FeatureCache:
    """Features of indexed images: kept in memory if all fit into `limit_mb`, else recomputed at each call."""

    def __init__(self, compute: Callable[[Tensor], list[Tensor]], limit_mb: float) -> None:
        self.compute, self.limit_mb = compute, limit_mb
        self._kept: list[Tensor] | None = None

    @torch.no_grad()
    def fill(self, batches: Batches, label: str) -> Iterator[list[Tensor]]:
        """Yields the features (B, C, h, w) of each batch and caches them."""
        total = len(batches.dataset)
        kept: list[Tensor] | None = None
        for batch in tqdm(batches, label, len(batches), delay=2, leave=False):
            features = self._compute(batch.image)
            if kept is None:
                fits = sum(f[0].numel() for f in features) * 4 * total / 2**20 <= self.limit_mb
                # channels last, the layout of the convolutions
                kept = [torch.empty((total, *f.shape[2:], f.shape[1])) for f in features if fits]
            for store, feature in zip(kept, features, strict=False):
                store[batch.index.cpu()] = feature.movedim(1, -1).cpu()
            yield features
        self._kept = kept or None

    @torch.no_grad()
    def get(self, batch: Batch) -> list[Tensor]:
        """Returns a batch's features; computes those of images that are not cached, such as augmented ones."""
        if self._kept is None:
            return self._compute(batch.image)
        index, count = batch.index.cpu(), len(self._kept[0])
        cached, rows = (index >= 0) & (index < count), index.clamp(0, count - 1)
        features = [store[rows].to(batch.image.device).movedim(-1, 1) for store in self._kept]
        if not cached.all():
            missing = (~cached).to(batch.image.device)
            for feature, computed in zip(features, self._compute(batch.image[missing]), strict=True):
                feature[missing] = computed.to(feature.dtype)  # autocast computes in lower precision
        return features

    def clear(self) -> None:
        self._kept = None

    def _compute(self, image: Tensor) -> list[Tensor]:
        return self.compute(image.contiguous(memory_format=torch.channels_last))
