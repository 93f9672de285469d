"""EfficientAD: a student and an autoencoder of a teacher's features, for local and global anomalies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice, pairwise, repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from anomalib_lite.augment.tta import View
from anomalib_lite.data.files import list_images, require_folder
from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import OK, Batch, Sample
from anomalib_lite.detectors.distillation import FeatureLearner
from anomalib_lite.detectors.levels import chosen_levels, grid_of, mean_squared_distance, stack
from anomalib_lite.detectors.model import Batches, Finish, MakeBackbone, MakeOptimizer, weighted_mean
from anomalib_lite.detectors.statistics import TINY, moments_of

WHOLE = 256  # px, input size of the autoencoder, whatever the images' size
SIZES = (3, 8, 15, 32, 63, 127)  # grid sizes of the autoencoder's decoder
STEPS = 260  # of a training whose length is not set
CHANGES = ("brightness", "contrast", "saturation")
QUANTILES = (0.9, 0.995)  # of OK maps, normalised to 0 and 0.1


class EfficientAD(FeatureLearner):
    """A small student learns a teacher's features of OK images; an autoencoder learns the image as a whole.

    Batzner, Heckler, Koenig, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies", WACV
    2024. The paper's teacher is a small network (PDN) distilled from a WideResNet101 on ImageNet. Here the teacher is
    the backbone itself or, with `distill`, a PDN distilled from the backbone on the OK images only. Such a teacher
    knows less about other objects, which `penalty` images partly compensate, as ImageNet does in the paper.

    Images are padded by reflection; in the paper the border has no map. Every `folds`-th training image is held out to
    scale the two maps. Options: `settings.detectors.EfficientAD`.
    """

    learners = ("student", "autoencoder")
    mean: Tensor
    scale: Tensor
    unit: Tensor

    fitted = None  # all tiles share the maps' units

    def __init__(
        self,
        backbone: MakeBackbone,
        optimizer: MakeOptimizer,
        levels: Sequence[int] | None = (1, 2),
        stride: int = 8,
        width: int = 24,
        inner: int = 32,
        hard: float = 0.999,
        penalty: str | None = None,
        distill: int = 0,
        epochs: int | None = None,
        steps: int = 0,
        **training: Any,
    ) -> None:
        training = {"folds": 10, "seed": 0, "epochs": epochs or 0} | training
        super().__init__(backbone, optimizer, steps=steps or (STEPS if epochs is None else 0), **training)
        self.levels, self.stride = chosen_levels(levels, len(self.teacher.channels)), stride
        self.hard, self.distill = hard, distill
        channels = sum(self.teacher.channels[level] for level in self.levels)
        self.pdn = PDN(channels, width, stride) if distill else None
        self.student, self.autoencoder = PDN(2 * channels, width, stride), Autoencoder(channels, inner)
        self.penalty = penalty
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("scale", torch.ones(1, channels, 1, 1))
        self.register_buffer("unit", torch.ones(2))
        self._penalty_images: ImageSet | None = None
        self.prepare_modules()

    def features(self, image: Tensor) -> list[Tensor]:
        return [self.pdn(self._normalised_image(image)) if self.pdn else self._of_backbone(image)]

    def prepare(self, batches: Batches) -> None:
        if self.pdn is not None:
            self.fit_statistics([self._of_backbone(batch.image)] for batch in batches)
            self._distill(self.pdn, batches)
        super().prepare(batches)
        if self.penalty is not None:
            files = list_images(require_folder(self.penalty, "The folder of penalty images", "detector.penalty"))
            self._penalty_images = ImageSet([Sample(file, OK) for file in files], batches.dataset.size)

    def fit_statistics(self, batches: Iterable[list[Tensor]]) -> None:
        """Fits the mean and standard deviation of each channel."""
        (moments,) = moments_of(([features.cpu()] for (features,) in batches), by_position=False)
        mean, covariance = moments.mean_and_covariance()
        self.mean.copy_(mean.view_as(self.mean))
        self.scale.copy_(covariance.diagonal().clamp_min(TINY).sqrt().view_as(self.scale))

    def loss_of(self, features: list[Tensor], batch: Batch, weight: Tensor) -> Tensor:
        """Computes the paper's equations 1 to 5, weighted by image."""
        image, target = batch.image, self._standardised(features[0])
        student = self.student(self._normalised_image(image))
        losses = hardest((target - student[:, : target.shape[1]]).square(), self.hard)
        augmented = self._augmented(image)
        with torch.no_grad():
            expected = self._standardised(self.features(augmented)[0])
        whole = self._autoencoded(augmented, expected)
        echo = self.student(self._normalised_image(augmented))[:, target.shape[1] :]
        losses = losses + (expected - whole).square().mean((1, 2, 3)) + (whole - echo).square().mean((1, 2, 3))
        loss = weighted_mean(losses, weight)
        if self._penalty_images is not None:
            chosen = torch.randint(len(self._penalty_images), (len(image),)).tolist()
            penalty = self._normalised_image(self._penalty_images[chosen].image.to(image.device))
            loss = loss + self.student(penalty)[:, : target.shape[1]].square().mean()
        return loss

    def trained_state(self) -> dict[str, Tensor]:
        names = (*self.learners, "pdn", "mean", "scale")
        return {k: v for k, v in self.state_dict().items() if k.split(".")[0] in names}

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        """Fits the units of both maps on held-out training images."""
        images, device = batches.dataset, self.device
        held_out = range(0, len(images), self.folds or 1)  # also of a saved model, which no `prepare` has seen
        maps = [self._both(view.apply(images[[k]].image.to(device))) for view in views for k in held_out]
        for k, values in enumerate(zip(*maps, strict=True)):
            low, high = torch.cat(values).flatten().cpu().double().quantile(torch.tensor(QUANTILES).double()).tolist()
            self.unit[k] = max(high - low, TINY) / 0.1
        self.notes = {"scaled_by": len(held_out)}
        self.cache.clear()

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        """Averages both maps in units of OK images: the paper's map plus a constant, so that no value is negative."""
        local, overall = self._both(image)
        return (local / self.unit[0] + overall / self.unit[1]) / 2

    def _both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the student's distances from the teacher and from the autoencoder: (B, 1, h, w) each."""
        target = self._standardised(self.features(image)[0])
        near, echo = self.student(self._normalised_image(image)).chunk(2, 1)
        return mean_squared_distance(target, near), mean_squared_distance(self._autoencoded(image, target), echo)

    def _of_backbone(self, image: Tensor) -> Tensor:
        features = self.teacher(image)
        return stack([features[level] for level in self.levels], grid_of(image, self.stride))

    def _standardised(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.scale

    def _normalised_image(self, image: Tensor) -> Tensor:
        """Normalises images like the backbone's input, for the small networks."""
        return (image - self.teacher.mean) / self.teacher.std

    def _autoencoded(self, image: Tensor, like: Tensor) -> Tensor:
        return self.autoencoder(self._normalised_image(image), like.shape[-2:])

    def _augmented(self, image: Tensor) -> Tensor:
        """Changes the brightness, contrast or saturation of each image by up to a fifth."""
        kinds = torch.randint(len(CHANGES), (len(image),)).tolist()
        factors = (0.8 + 0.4 * torch.rand(len(image))).tolist()
        triples = zip(image.split(1), kinds, factors, strict=True)
        return torch.cat([View(**{CHANGES[kind]: factor}).apply(one) for one, kind, factor in triples])

    @torch.enable_grad()
    def _distill(self, pdn: PDN, batches: Batches) -> None:
        """Distills the backbone into the PDN, as in the paper, but on the OK images instead of ImageNet."""
        optimizer = torch.optim.Adam(pdn.parameters(), 1e-4, weight_decay=1e-5)
        stream = islice(chain.from_iterable(repeat(batches)), self.distill)
        for batch in tqdm(stream, "distill the teacher", self.distill, delay=2, leave=False):
            with torch.no_grad():
                target = self._standardised(self._of_backbone(batch.image))
            loss = (target - pdn(self._normalised_image(batch.image))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        pdn.requires_grad_(False)


def hardest(differences: Tensor, share: float) -> Tensor:
    """Averages each image's largest differences (B, ...) to (B,), leaving out the smaller ones, a share `share`."""
    flat = differences.flatten(1)
    return flat.topk(max(1, round(flat.shape[1] * (1 - share)))).values.mean(1)


def late_drop(optimizer: torch.optim.Optimizer, total_steps: int, share: float = 0.95) -> Any:
    """Schedule that divides the learning rate by ten after a share of the steps."""
    return torch.optim.lr_scheduler.StepLR(optimizer, max(1, int(share * total_steps)), 0.1)


class PDN(nn.Sequential):
    """Patch description network: four convolutions, receptive field 33 px, (B, 3, H, W) to (B, C, h, w).

    The stride, px between the positions, is 4 or 8.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        self.before = 16 - stride // 2  # px to the left of and above the first position's centre
        super().__init__(
            nn.Conv2d(3, width, 4), nn.ReLU(inplace=True), nn.AvgPool2d(2),
            nn.Conv2d(width, 2 * width, 4), nn.ReLU(inplace=True), nn.AvgPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3), nn.ReLU(inplace=True), nn.Conv2d(2 * width, channels, 4, stride // 4),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        behind = 29 - self.before
        padding = (self.before, behind - width % -4, self.before, behind - height % -4)
        return super().forward(F.pad(image, padding, mode="reflect"))


class Autoencoder(nn.Module):
    """Maps images (B, 3, H, W), resized to 256 x 256, through a vector of `inner` to features on any grid."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        widths = [3, inner // 2, inner // 2, inner, inner, inner]
        steps = [(nn.Conv2d(a, b, 4, 2, 1), nn.ReLU(inplace=True)) for a, b in pairwise(widths)]
        self.encoder = nn.Sequential(*chain.from_iterable(steps), nn.Conv2d(inner, inner, WHOLE // 32))
        self.decoder = nn.ModuleList(nn.Conv2d(inner, inner, 4, padding=2) for _ in SIZES)
        self.dropout = nn.Dropout(0.2)
        self.last = nn.Sequential(
            nn.Conv2d(inner, inner, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(inner, channels, 3, padding=1)
        )

    def forward(self, image: Tensor, grid: Sequence[int]) -> Tensor:
        if image.shape[-2:] != (WHOLE, WHOLE):
            image = _resized(image, (WHOLE, WHOLE))
        inner = self.encoder(image)
        for size, layer in zip(SIZES, self.decoder, strict=True):
            if size < 2 * max(grid):  # finer grids would be averaged away
                inner = self.dropout(layer(_resized(inner, (size, size))).relu())
        return self.last(_resized(inner, grid))


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
