"""SubspaceAD: how far features lie outside the principal components of the OK features."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from anomalib_lite.augment.tta import View
from anomalib_lite.backbones import Backbone
from anomalib_lite.detectors.coreset import looked_at, turned
from anomalib_lite.detectors.levels import chosen_levels, grid_of, size_of, stack
from anomalib_lite.detectors.model import Batches, Finish, Method
from anomalib_lite.detectors.statistics import Moments, PrincipalSubspace
from anomalib_lite.errors import UserError


class SubspaceAD(Method):
    """The map is the squared distance of each position's features from their principal components over all positions.

    Lendering, Akdag, Bondarev, "SubspaceAD: Training-Free Few-Shot Anomaly Detection via Subspace Modeling", CVPR 2026.
    Nothing is trained, and no patch is remembered. One subspace holds for all views. The paper turns the few images by
    30 random angles; here they are multiples of one angle, so that a run repeats itself. Options:
    `settings.detectors.SubspaceAD`.
    """

    fitted = ("subspace",)

    def __init__(
        self,
        backbone: Callable[..., Backbone],
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
                f"detector.merge=mean wants layers of the same channels, and these have {sorted(widths)}: take stack."
            )
        self.stride, self.merge, self.turns, self.few = stride, merge, turns, few
        self.subspace = PrincipalSubspace(share)
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        moments, device = Moments(), self.device
        for look in turned(views, self.turns if len(batches.dataset) <= self.few else 1):
            for batch in tqdm(batches, f"components, image {look[0].label}", len(batches), delay=2, leave=False):
                image = looked_at(batch.image.to(device), look).contiguous(memory_format=torch.channels_last)
                moments.update_all(self._features(image).cpu())
        self.subspace.cpu().fit(moments)
        self.subspace.to(device)
        dropped, channels = self.subspace.outside.shape
        self.notes = {"channels": channels, "components": channels - dropped}

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        return self.subspace(self._features(image))

    def _features(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, C, h, w)."""
        features = self.backbone(image)
        taken = [features[level] for level in self.levels]
        size = grid_of(image, self.stride) if self.stride else size_of(taken[0])
        if self.merge == "mean":
            return torch.stack([stack([level], size) for level in taken]).mean(0)
        return stack(taken, size)
