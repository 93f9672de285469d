"""AnomalyDINO: distance to the nearest stored transformer token, 0 on the background."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.augment.tta import View
from anomalib_lite.detectors.model import Batches, Finish, MakeBackbone
from anomalib_lite.detectors.patchcore import PatchCore
from anomalib_lite.errors import UserError

MIDDLE = 0.2  # share of each side that is cut off to get the middle
COVERED = 0.35  # least share of the middle that the product covers
TRIED = 16  # OK images that decide whether there is a background


class AnomalyDINO(PatchCore):
    """The map is 1 - cosine to the nearest stored token; it is 0 on the background.

    Damm, Laszkiewicz, Lederer, Fischer, "AnomalyDINO: Boosting Patch-Based Few-Shot Anomaly Detection with DINOv2",
    WACV 2025. Nothing is trained. The product is where the first principal component of an image's features exceeds a
    threshold. As in the authors' code, background tokens are stored too, and few images are rotated.

    The authors decide by eye which products have a background, and choose the component's sign by whether the middle is
    covered. Here the sign is the one that covers more of the middle, and `auto` masks the background if the product
    covers the middle of OK images, and at most half as much of their border; so textures are not masked. The paper's
    threshold of 10 is for DINOv2's normalised tokens. Options: `settings.detectors.AnomalyDINO`.
    """

    masked: Tensor

    fitted = None  # all tiles share one decision to mask the background

    def __init__(
        self,
        backbone: MakeBackbone,
        levels: Sequence[int] | None = (1, 2),
        mask: str = "auto",
        threshold: float | None = None,
        **settings: Any,
    ) -> None:
        defaults = {"stride": None, "pool": 0, "bank": 1.0, "coreset": "random", "cosine": True, "turns": 8}
        super().__init__(backbone, levels, **defaults | settings)
        self.mask, self.threshold = mask, threshold
        self.register_buffer("masked", torch.tensor(mask == "on"))
        self.frozen = False

    def freeze_selection(self) -> None:
        """Called before export, see `export.graph`. Raises UserError if the background is masked."""
        if self.masked:
            raise UserError(
                "AnomalyDINO masks this product's background by eigenvectors, which an exported graph cannot compute: "
                "train with detector.mask=off."
            )
        self.frozen = True

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        super().calibrate(batches, views, finish)
        images = batches.dataset
        probes = images[list(range(0, len(images), -(-len(images) // TRIED)))].image
        masks = torch.cat([foreground(self._extract(image), self.threshold) for image in probes.split(1)]).float()
        edges = [masks[:, 0, 0], masks[:, 0, -1], masks[:, 0, :, 0], masks[:, 0, :, -1]]
        middle, border = float(_middle(masks).mean()), float(torch.cat(edges, 1).mean())
        has_background = middle >= COVERED and border <= middle / 2
        self.masked.fill_(self.mask == "on" or (self.mask == "auto" and has_background))
        self.notes = {**self.notes, "ground_left_out": bool(self.masked), "product": round(float(masks.mean()), 3)}

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        features = self._features(image)
        scores = self._merge(self._maps(features, view))
        return scores if self.frozen or not self.masked else scores * foreground(features, self.threshold)


def foreground(features: Tensor, threshold: float | None) -> Tensor:
    """Segments the product of features (B, C, h, w): (B, 1, h, w) bool, dilated by a position, small gaps closed."""
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
    rows, columns = (slice(int(n * MIDDLE), max(1, int(n * (1 - MIDDLE)))) for n in maps.shape[2:])
    return maps[:, :, rows, columns]
