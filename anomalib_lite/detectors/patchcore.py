"""PatchCore: the distance to the nearest of some remembered OK patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.augment.tta import View
from anomalib_lite.backbones import Backbone
from anomalib_lite.detectors.coreset import (
    gather_candidates,
    greedy_centres,
    nearest,
    nearest_several,
    random_projection,
)
from anomalib_lite.detectors.levels import chosen_levels, grid_of, stack
from anomalib_lite.detectors.model import Batches, Finish, Method
from anomalib_lite.detectors.statistics import Fitted, Moments, Whitening
from anomalib_lite.errors import UserError


class Bank(Fitted):
    """Remembered patches (M, C), and for each the indices (M, b) of its nearest, itself first."""

    patches: Tensor
    around: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("patches", torch.empty(0))
        self.register_buffer("around", torch.empty(0, dtype=torch.long))


class PatchCore(Method):
    """The map is the distance of each position's features from the nearest remembered patch of an OK image.

    Roth, Pemula, Zepeda, Schoelkopf, Brox, Gehler, "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
    Nothing is trained; the bank holds patches of all test-time views.

    levels: which of the backbone's layers, by their place; None: all. stride: px between the positions. whitening:
    makes the whitening that the patches are compared in, fitted on the candidates; None: raw features, as in the paper.
    bank: how many patches are remembered, or as a float <= 1, their share of the candidates. coreset: `greedy` covers
    the candidates (the paper's), `random` draws. candidates_mb: memory for the patches that the bank is chosen from, as
    many of each image as fit. projection: dimensions in which the coreset is chosen. reweight: neighbours whose density
    weights the score and, with it, the image's map (the paper's equation 7, b there); 0: not.
    """

    def __init__(
        self,
        backbone: Callable[..., Backbone],
        levels: Sequence[int] | None = (1, 2),
        stride: int = 8,
        whitening: Callable[[], Whitening] | None = None,
        bank: int | float = 4000,
        coreset: str = "greedy",
        candidates_mb: float = 256,
        projection: int = 64,
        reweight: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if coreset not in ("greedy", "random"):
            raise UserError(f"detector.coreset must be greedy or random, not '{coreset}'.")
        if bank <= 0 or (isinstance(bank, float) and bank > 1):
            raise UserError(f"detector.bank must be a number of patches, or a share in (0, 1], not {bank}.")
        self.backbone = backbone().requires_grad_(False).eval()
        self.levels = chosen_levels(levels, len(self.backbone.channels))
        self.whitening = None if whitening is None else whitening()
        self.bank = Bank()
        self.stride, self.size, self.coreset, self.seed = stride, bank, coreset, seed
        self.candidates_mb, self.projection, self.reweight = candidates_mb, projection, reweight
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        patches = gather_candidates(batches, self._seen, views, self.candidates_mb, generator)
        if self.whitening is not None:
            self._whiten(self.whitening, patches)
        count = max(1, round(self.size * len(patches))) if isinstance(self.size, float) else self.size
        chosen = self._choose(patches, min(count, len(patches)), generator)
        self.bank.patches = patches[chosen].to(self.device)
        if self.reweight:
            self.bank.around = nearest_several(self.bank.patches, self.bank.patches, self.reweight)[1]
        self.notes = {"candidates": len(patches), "bank": len(chosen), "patch_channels": patches.shape[1]}

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        features = self._features(image)
        if self.whitening is not None:
            features = self.whitening(features)
        rows = features.flatten(2).transpose(1, 2).flatten(0, 1)
        distance, index = nearest(rows, self.bank.patches)
        map = distance.view(len(image), 1, *features.shape[2:])
        return map * self._density_weight(rows, distance, index, len(image)) if self.reweight else map

    def _density_weight(self, rows: Tensor, distance: Tensor, index: Tensor, images: int) -> Tensor:
        """Of each image (B, 1, 1, 1): small where the farthest patch's neighbour lies among many alike."""
        worst = distance.view(images, -1).argmax(1, keepdim=True)
        patch = rows.view(images, -1, rows.shape[1])[torch.arange(images, device=rows.device), worst[:, 0]]
        around = self.bank.around[index.view(images, -1).gather(1, worst)[:, 0]]
        distances = torch.linalg.vector_norm(patch[:, None] - self.bank.patches[around], dim=2)
        return (1 - distances.softmax(1)[:, 0]).view(-1, 1, 1, 1)

    def _choose(self, patches: Tensor, count: int, generator: torch.Generator) -> Tensor:
        if self.coreset == "random":
            return torch.randperm(len(patches), generator=generator)[:count]
        projected = random_projection(patches, self.projection, generator).to(self.device)
        first = int(torch.randint(len(patches), (), generator=generator))
        return greedy_centres(projected, count, first).cpu()

    def _whiten(self, whitening: Whitening, patches: Tensor, block: int = 65536) -> None:
        """Fits the whitening and whitens the patches (N, C), in place."""
        moments = Moments()
        for part in patches.split(block):
            moments.update(part)
        whitening.cpu().fit(moments)
        for part in patches.split(block):
            part.copy_(whitening(part.T[None, :, :, None])[0, :, :, 0].T)
        whitening.to(self.device)

    def _seen(self, image: Tensor) -> Tensor:
        return self._features(image.to(self.device).contiguous(memory_format=torch.channels_last)).cpu()

    def _features(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, C, H / stride, W / stride), each level averaged over 3 x 3 of its positions."""
        features = self.backbone(image)
        averaged = [F.avg_pool2d(features[i], 3, 1, 1, count_include_pad=False) for i in self.levels]
        return stack(averaged, grid_of(image, self.stride))
