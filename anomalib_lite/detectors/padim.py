"""PaDiM: a Gaussian of the backbone's features at each position of the product."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.augment.tta import View
from anomalib_lite.detectors.levels import chosen_levels, grid_of, stack
from anomalib_lite.detectors.model import Batches, Finish, MakeBackbone, Method
from anomalib_lite.detectors.statistics import PerView, PositionGaussian, moments_of


class PaDiM(Method):
    """The map is the Mahalanobis distance of each position's features from their Gaussian over the OK images.

    Defard, Setkov, Loesch, Audigier, "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
    Localization", ICPR 2021. The distance is divided by the square root of the number of channels, which makes it about
    1 on OK images. Nothing is trained; each test-time view has separate Gaussians. Finer layers are averaged down to
    the grid, coarser ones interpolated (the paper repeats them); the paper has no shrinkage and adds a fixed 0.01 to
    the diagonal. Options: `settings.detectors.PaDiM`.
    """

    fitted = ("gaussians",)
    kept: Tensor

    def __init__(
        self,
        backbone: MakeBackbone,
        levels: Sequence[int] | None = (1, 2),
        stride: int = 8,
        channels: int | None = 160,
        shrinkage: float | str = "auto",
        ridge: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone().frozen()
        self.levels = chosen_levels(levels, len(self.backbone.channels))
        self.stride = stride
        available = sum(self.backbone.channels[level] for level in self.levels)
        drawn = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("kept", drawn[:channels].sort().values)
        self.gaussians = PerView(partial(PositionGaussian, shrinkage, ridge))
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        device = self.device
        self.gaussians.reset(len(views))
        for gaussian, view in zip(self.gaussians, views, strict=True):
            progress = tqdm(batches, f"Gaussians, image {view.label}", len(batches), delay=2, leave=False)
            images = (view.apply(b.image.to(device)).contiguous(memory_format=torch.channels_last) for b in progress)
            gaussian.fit(*moments_of([self._features(image).cpu()] for image in images))
            gaussian.to(device)
        self.notes = {"channels": len(self.kept), "positions": self.gaussians[0].mean.shape[0]}

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        return self.gaussians[view](self._features(image)).sqrt()

    def _features(self, image: Tensor) -> Tensor:
        """Computes features (B, kept channels, H / stride, W / stride) of images (B, 3, H, W)."""
        features = self.backbone(image)
        return stack([features[level] for level in self.levels], grid_of(image, self.stride))[:, self.kept]
