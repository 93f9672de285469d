"""EfficientAD: a student and an autoencoder of a teacher's features, one for what is local, one for what is global."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice, pairwise, repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from anomalib_lite.augment.tta import View
from anomalib_lite.backbones import Backbone
from anomalib_lite.data.files import list_images, require_folder
from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import OK, Batch, Sample
from anomalib_lite.detectors.distillation import FeatureLearner
from anomalib_lite.detectors.levels import chosen_levels, grid_of, mean_squared_distance, stack
from anomalib_lite.detectors.model import Batches, Finish, weighted_mean
from anomalib_lite.detectors.statistics import TINY, Moments

WHOLE = 256  # px of the images that the autoencoder sees, whatever the size of those given
SIZES = (3, 8, 15, 32, 63, 127)  # of the autoencoder's decoder
CHANGES = ("brightness", "contrast", "saturation")
QUANTILES = (0.9, 0.995)  # of the maps of OK images: they become 0 and 0.1


class EfficientAD(FeatureLearner):
    """A small student learns a teacher's features of OK images; an autoencoder learns what the whole should look like.

    Batzner, Heckler, Koenig, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies", WACV
    2024. The paper's teacher is a small network (PDN) that was distilled from a WideResNet101 on ImageNet. Here it is
    the backbone itself or, with `distill`, a PDN that learned the backbone's features of the OK images alone. So it
    knows less of what the product is not; `penalty` images make up for some of it, as ImageNet does in the paper. The
    images are padded by reflection, where the paper leaves a border without a map. Images that are not learned from,
    one in `folds`, set the two maps' scales. Options: `settings.detectors.EfficientAD`.
    """

    learners = ("student", "autoencoder")
    mean: Tensor
    scale: Tensor
    unit: Tensor

    fitted = None  # the maps have one unit

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        optimizer: Callable[..., torch.optim.Optimizer],
        levels: Sequence[int] | None = (1, 2),
        stride: int = 8,
        width: int = 24,
        inner: int = 32,
        hard: float = 0.999,
        penalty: str | None = None,
        distill: int = 0,
        **training: Any,
    ) -> None:
        super().__init__(backbone, optimizer, **{"folds": 10, "seed": 0} | training)
        self.levels, self.stride = chosen_levels(levels, len(self.teacher.channels)), stride
        self.hard, self.distill = hard, distill
        channels = sum(self.teacher.channels[level] for level in self.levels)
        self.pdn = PDN(channels, width, stride) if distill else None
        self.student, self.autoencoder = PDN(2 * channels, width, stride), Autoencoder(channels, inner)
        self.penalty = penalty
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("scale", torch.ones(1, channels, 1, 1))
        self.register_buffer("unit", torch.ones(2))
        self._others: ImageSet | None = None
        self.built()

    def features(self, image: Tensor) -> list[Tensor]:
        return [self.pdn(self._shown(image)) if self.pdn else self._of_backbone(image)]

    def prepare(self, batches: Batches) -> None:
        if self.pdn is not None:
            self.fit_statistics([self._of_backbone(batch.image)] for batch in batches)
            self._distil(self.pdn, batches)
        super().prepare(batches)
        if self.penalty is not None:
            files = list_images(require_folder(self.penalty, "The folder of other photographs", "detector.penalty"))
            self._others = ImageSet([Sample(file, OK) for file in files], batches.dataset.size)

    def fit_statistics(self, batches: Iterable[list[Tensor]]) -> None:
        """Mean and standard deviation of each channel."""
        moments = Moments()
        for (features,) in batches:
            moments.update_all(features.cpu())
        mean, covariance = moments.mean_and_covariance()
        self.mean.copy_(mean.view_as(self.mean))
        self.scale.copy_(covariance.diagonal().clamp_min(TINY).sqrt().view_as(self.scale))

    def loss_of(self, features: list[Tensor], batch: Batch, weight: Tensor) -> Tensor:
        """The paper's equations 1 to 5, each image weighted."""
        image, target = batch.image, self._normalised(features[0])
        student = self.student(self._shown(image))
        losses = hardest((target - student[:, : target.shape[1]]).square(), self.hard)
        changed = self._changed(image)
        with torch.no_grad():
            wanted = self._normalised(self.features(changed)[0])
        whole = self._autoencoded(changed, wanted)
        echo = self.student(self._shown(changed))[:, target.shape[1] :]
        losses = losses + (wanted - whole).square().mean((1, 2, 3)) + (whole - echo).square().mean((1, 2, 3))
        loss = weighted_mean(losses, weight)
        if self._others is not None:
            chosen = torch.randint(len(self._others), (len(image),)).tolist()
            other = self._shown(self._others[chosen].image.to(image.device))
            loss = loss + self.student(other)[:, : target.shape[1]].square().mean()
        return loss

    def trained_state(self) -> dict[str, Tensor]:
        own = (*self.learners, "pdn", "mean", "scale")
        return {k: v for k, v in self.state_dict().items() if k.split(".")[0] in own}

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        """The unit of both maps, from images that were not learned from."""
        images, device = batches.dataset, self.device
        maps = [self._both(view.apply(images[[k]].image.to(device))) for view in views for k in self.tried]
        for kind, own in enumerate(zip(*maps, strict=True)):
            low, high = torch.cat(own).flatten().cpu().double().quantile(torch.tensor(QUANTILES).double()).tolist()
            self.unit[kind] = max(high - low, TINY) / 0.1
        self.notes = {"scaled_by": len(self.tried)}
        self.cache.clear()

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        """The mean of both maps in units of OK images: the paper's but for a constant, so that none is below 0."""
        local, whole = self._both(image)
        return (local / self.unit[0] + whole / self.unit[1]) / 2

    def _both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """How far the student is from the teacher, and from the autoencoder: (B, 1, h, w) each."""
        target = self._normalised(self.features(image)[0])
        near, echo = self.student(self._shown(image)).chunk(2, 1)
        return mean_squared_distance(target, near), mean_squared_distance(self._autoencoded(image, target), echo)

    def _of_backbone(self, image: Tensor) -> Tensor:
        features = self.teacher(image)
        return stack([features[level] for level in self.levels], grid_of(image, self.stride))

    def _normalised(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.scale

    def _shown(self, image: Tensor) -> Tensor:
        """As the small networks see an image, in the units of the backbone's input."""
        return (image - self.teacher.mean) / self.teacher.std

    def _autoencoded(self, image: Tensor, like: Tensor) -> Tensor:
        return self.autoencoder(self._shown(image), like.shape[-2:])

    def _changed(self, image: Tensor) -> Tensor:
        """Each image with its brightness, contrast or saturation changed by up to a fifth."""
        kinds = torch.randint(len(CHANGES), (len(image),)).tolist()
        factors = (0.8 + 0.4 * torch.rand(len(image))).tolist()
        changes = [View(**{CHANGES[kind]: factor}) for kind, factor in zip(kinds, factors, strict=True)]
        return torch.cat([view.apply(one) for view, one in zip(changes, image.split(1), strict=True)])

    @torch.enable_grad()
    def _distil(self, pdn: PDN, batches: Batches) -> None:
        """The paper's pretraining, on the OK images instead of ImageNet."""
        optimizer = torch.optim.Adam(pdn.parameters(), 1e-4, weight_decay=1e-5)
        stream = islice(chain.from_iterable(repeat(batches)), self.distill)
        for batch in tqdm(stream, "distil the teacher", self.distill, delay=2, leave=False):
            with torch.no_grad():
                target = self._normalised(self._of_backbone(batch.image))
            loss = (target - pdn(self._shown(batch.image))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        pdn.requires_grad_(False)


def hardest(differences: Tensor, share: float) -> Tensor:
    """The mean (B,) of each image's largest differences (B, ...); `share` of them, the smaller ones, are left out."""
    flat = differences.flatten(1)
    return flat.topk(max(1, round(flat.shape[1] * (1 - share)))).values.mean(1)


def late_drop(optimizer: torch.optim.Optimizer, total_steps: int, share: float = 0.95) -> Any:
    """A tenth of the learning rate once that share of the steps is done."""
    return torch.optim.lr_scheduler.StepLR(optimizer, max(1, int(share * total_steps)), 0.1)


class PDN(nn.Sequential):
    """A patch description network: four convolutions that see 33 px around each position, (B, 3, H, W) -> (B, C, h, w).

    stride: px between the positions, 4 or 8.
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
    """Images (B, 3, H, W), seen at 256 x 256 -> features (B, C, h, w) on any grid, through one vector of `inner`."""

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
            if size < 2 * max(grid):  # finer ones would be averaged away
                inner = self.dropout(layer(_resized(inner, (size, size))).relu())
        return self.last(_resized(inner, grid))


def _resized(picture: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(picture, size=tuple(size), mode="bilinear", align_corners=False)
