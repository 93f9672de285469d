"""AnomalyDINO: the nearest remembered token of a transformer, where the product stands out from its ground."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.augment.tta import View
from anomalib_lite.backbones import Backbone
from anomalib_lite.detectors.model import Batches, Finish
from anomalib_lite.detectors.patchcore import PatchCore
from anomalib_lite.errors import UserError

MIDDLE = 0.2  # of each side is outside of the middle
COVERED = 0.35  # of the middle is at least product
TRIED = 16  # OK images that tell whether there is a ground


class AnomalyDINO(PatchCore):
    """The map is 1 - cosine to the nearest remembered token; it is 0 on the ground.

    Damm, Laszkiewicz, Lederer, Fischer, "AnomalyDINO: Boosting Patch-Based Few-Shot Anomaly Detection with DINOv2",
    WACV 2025. Nothing is trained. The product is where the first principal component of an image's features exceeds a
    threshold. As in the authors' code, tokens of the ground are remembered too, and few images are turned. Which
    products have a ground the authors decide by eye, and the component's sign by whether the middle is covered; here
    the sign is the one that covers more of the middle, and `auto` decides on OK images: a ground is left out where the
    middle is covered, and the border at most half as much. So textures keep all their places. The paper's threshold of
    10 is for DINOv2's normalised tokens. Options: `settings.detectors.AnomalyDINO`.
    """

    masked: Tensor

    fitted = None  # the ground is left out of all, or of none

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        levels: Sequence[int] | None = (1, 2),
        mask: str = "auto",
        threshold: float | None = None,
        **settings: Any,
    ) -> None:
        own = {"stride": None, "pool": 0, "bank": 1.0, "coreset": "random", "cosine": True, "turns": 8}
        super().__init__(backbone, levels, **own | settings)
        self.mask, self.threshold = mask, threshold
        self.register_buffer("masked", torch.tensor(mask == "on"))
        self.settled = False

    def settle(self) -> None:
        """See `export.graph`. Errors: UserError where the ground is left out, by eigenvectors of each image."""
        if self.masked:
            raise UserError(
                "AnomalyDINO leaves out the ground of this product by eigenvectors, which no exported graph can: train "
                "with detector.mask=off."
            )
        self.settled = True

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        super().calibrate(batches, views, finish)
        images = batches.dataset
        tried = images[list(range(0, len(images), -(-len(images) // TRIED)))].image
        masks = torch.cat([foreground(self._seen(one), self.threshold) for one in tried.split(1)]).float()
        middle, border = float(_middle(masks).mean()), float(_border(masks).mean())
        stands_out = middle >= COVERED and border <= middle / 2
        self.masked.fill_(self.mask == "on" or (self.mask == "auto" and stands_out))
        self.notes = {**self.notes, "ground_left_out": bool(self.masked), "product": round(float(masks.mean()), 3)}

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        features = self._features(image)
        map = self._merged(self._maps(features, view))
        return map if self.settled or not self.masked else map * foreground(features, self.threshold)


def foreground(features: Tensor, threshold: float | None) -> Tensor:
    """Where the product is: features (B, C, h, w) -> (B, 1, h, w) bool. Grown by a place, small gaps closed."""
    rows = features.flatten(2).transpose(1, 2)
    rows = rows - rows.mean(1, keepdim=True)
    first = torch.linalg.eigh(rows.mT @ rows).eigenvectors[:, :, -1:]
    component = (rows @ first).mT.reshape(features.shape[0], 1, *features.shape[2:])
    limit = component.std((2, 3), keepdim=True) / 2 if threshold is None else threshold
    light, dark = (component > limit).float(), (-component > limit).float()
    covers_more = _middle(light).mean((1, 2, 3)) >= _middle(dark).mean((1, 2, 3))
    mask = torch.where(covers_more[:, None, None, None], light, dark)
    grown = F.max_pool2d(F.max_pool2d(mask, 3, 1, 1), 3, 1, 1)
    return -F.max_pool2d(-grown, 3, 1, 1) > 0


def _middle(maps: Tensor) -> Tensor:
    height, width = maps.shape[2:]
    rows, columns = (slice(int(n * MIDDLE), max(1, int(n * (1 - MIDDLE)))) for n in (height, width))
    return maps[:, :, rows, columns]


def _border(maps: Tensor) -> Tensor:
    """The outermost places (B, n)."""
    return torch.cat([maps[:, 0, 0], maps[:, 0, -1], maps[:, 0, :, 0], maps[:, 0, :, -1]], 1)
