"""SubspaceAD: distance of features from the principal components of the OK features."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.augment.tta import View
from anomalib_lite.detectors.coreset import apply_view, rotated_views
from anomalib_lite.detectors.levels import chosen_levels, grid_of, size_of, stack
from anomalib_lite.detectors.model import Batches, Finish, MakeBackbone, Method
from anomalib_lite.detectors.statistics import Moments, PrincipalSubspace
from anomalib_lite.errors import UserError


class SubspaceAD(Method):
    """The map is the squared distance of each position's features from the principal subspace of the OK features.

    Lendering, Akdag, Bondarev, "SubspaceAD: Training-Free Few-Shot Anomaly Detection via Subspace Modeling", CVPR 2026.
    Nothing is trained, and no patches are stored. One subspace serves all positions and views. The paper rotates the
    few images by 30 random angles; here they are multiples of one angle, so that runs are reproducible. Options:
    `settings.detectors.SubspaceAD`.
    """

    fitted = ("subspace",)

    def __init__(
        self,
        backbone: MakeBackbone,
        levels: Sequence[int] | None = (1, 2),
        stride: int | None = None,
        merge: str = "stack",
        share: float = 0.99,
        turns: int = 30,
        few: int = 16,
    ) -> None:
        super().__init__()
        self.backbone = backbone().frozen()
        self.levels = chosen_levels(levels, len(self.backbone.channels))
        widths = {self.backbone.channels[level] for level in self.levels}
        if merge == "mean" and len(widths) > 1:
            raise UserError(
                f"detector.merge=mean needs layers of equal channels, but these have {sorted(widths)}: use stack."
            )
        self.stride, self.merge, self.turns, self.few = stride, merge, turns, few
        self.subspace = PrincipalSubspace(share)
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        moments, device = Moments(), self.device
        for rotated in rotated_views(views, self.turns if len(batches.dataset) <= self.few else 1):
            for batch in tqdm(batches, f"components, image {rotated[0].label}", len(batches), delay=2, leave=False):
                image = apply_view(batch.image.to(device), rotated).contiguous(memory_format=torch.channels_last)
                moments.update_all(self._features(image).cpu())
        self.subspace.cpu().fit(moments)
        self.subspace.to(device)
        dropped, channels = self.subspace.outside.shape
        self.notes = {"channels": channels, "components": channels - dropped}

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        return self.subspace(self._features(image))

    def _features(self, image: Tensor) -> Tensor:
        """Computes features (B, C, h, w) of images (B, 3, H, W)."""
        features = self.backbone(image)
        levels = [features[level] for level in self.levels]
        size = grid_of(image, self.stride) if self.stride else size_of(levels[0])
        if self.merge == "mean":
            return torch.stack([stack([level], size) for level in levels]).mean(0)
        return stack(levels, size)
