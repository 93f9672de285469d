"""PatchCore: distance to the nearest stored patch of OK images."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.augment.tta import View
from anomalib_lite.detectors.coreset import (
    Bank,
    gather_candidates,
    gather_images,
    greedy_centres,
    random_projection,
    rotated_views,
    thinned,
)
from anomalib_lite.detectors.levels import chosen_levels, grid_of, size_of, stack
from anomalib_lite.detectors.model import Batches, Finish, MakeBackbone, Method
from anomalib_lite.detectors.statistics import PerView, Whitening, moments_of
from anomalib_lite.errors import UserError


class PatchCore(Method):
    """The map is the distance of each position's features from the nearest stored patch of an OK image.

    Roth, Pemula, Zepeda, Schoelkopf, Brox, Gehler, "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
    Nothing is trained; one bank holds patches of all test-time views. With a radius, as in RAD (2026), a position is
    only compared with patches near it; then each view has separate banks, of whole images.

    As many candidates per image (with a radius: as many images) are gathered as `candidates_mb` holds; the bank is
    chosen from them. `reweight` is the b of the paper's equation 7, which here weights the image's whole map. See
    `Bank` for `cosine`, `radius` and `density`. Options: `settings.detectors.PatchCore`.
    """

    fitted: tuple[str, ...] | None = ("banks", "whitening")

    def __init__(
        self,
        backbone: MakeBackbone,
        levels: Sequence[int] | None = (1, 2),
        stride: int | None = 8,
        pool: int = 1,
        whitening: Callable[[], Whitening] | None = None,
        separate: bool = False,
        bank: int | float = 4000,
        coreset: str = "greedy",
        candidates_mb: float = 256,
        projection: int = 64,
        reweight: int = 0,
        cosine: bool = False,
        radius: int | None = None,
        density: int = 0,
        turns: int = 1,
        few: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if radius is not None and (reweight or turns > 1):
            raise UserError(
                "detector.radius compares each position only with patches near it, so it excludes reweight and turns, "
                "which mix positions: leave them out, or set detector.radius=null."
            )
        self.backbone = backbone().frozen()
        self.levels = chosen_levels(levels, len(self.backbone.channels))
        widths = [self.backbone.channels[level] for level in self.levels]
        self.widths = widths if separate else [sum(widths)]
        self.whitening = None if whitening is None else whitening()
        self.banks = PerView(partial(Bank, cosine, radius))
        self.stride, self.pool, self.size, self.coreset, self.seed = stride, pool, bank, coreset, seed
        self.candidates_mb, self.projection, self.reweight = candidates_mb, projection, reweight
        self.cosine, self.radius, self.density, self.turns, self.few = cosine, radius, density, turns, few
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        rotated = rotated_views(views, self.turns if len(batches.dataset) <= self.few else 1)
        local = self.radius is not None
        groups = [[r] for r in rotated] if local else [rotated]  # views that share banks
        self.banks.reset(len(groups) * len(self.widths))
        banks = iter(self.banks)
        for number, group in enumerate(groups):
            if local:
                limit = self.candidates_mb / len(groups)
                patches = gather_images(batches.dataset, self._extract, group[0][0], self.size, limit)
            else:
                patches = gather_candidates(batches, self._extract, group, self.candidates_mb, generator)
            if self.whitening is not None:
                self._whiten(self.whitening, patches.flatten(0, -2), fit=number == 0)
            for part in patches.split(self.widths, -1):
                rows = F.normalize(part, dim=-1) if self.cosine else part.contiguous()
                kept = rows if local else self._select(generator, rows)
                next(banks).store(kept.to(self.device), rows, self.density, self.reweight)
        counts = {"images_remembered": patches.shape[1]} if local else {"candidates": len(patches), "bank": len(kept)}
        self.notes = {**counts, "patch_channels": patches.shape[-1]}

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        return self._merge(self._maps(self._features(image), view))

    def _maps(self, features: Tensor, view: int) -> list[Tensor]:
        """Computes each bank's map (B, 1, h, w)."""
        if self.whitening is not None:
            features = self.whitening(features)
        first = 0 if self.radius is None else view * len(self.widths)
        return [self.banks[first + k](part) for k, part in enumerate(features.split(self.widths, 1))]

    def _merge(self, maps: Sequence[Tensor]) -> Tensor:
        return maps[0] if len(maps) == 1 else torch.stack(list(maps)).mean(0)

    def _select(self, generator: torch.Generator, patches: Tensor) -> Tensor:
        count = max(1, round(self.size * len(patches))) if isinstance(self.size, float) else self.size
        count = min(count, len(patches))
        if self.coreset == "thinned":
            return patches[thinned(patches, count, generator)]
        if self.coreset == "random":
            return patches[torch.randperm(len(patches), generator=generator)[:count]]
        projected = random_projection(patches, self.projection, generator).to(self.device)
        first = int(torch.randint(len(patches), (), generator=generator))
        return patches[greedy_centres(projected, count, first).cpu()]

    def _whiten(self, whitening: Whitening, patches: Tensor, fit: bool, block: int = 65536) -> None:
        """Fits the whitening, and whitens the patches (N, C) in place."""
        parts = [part.T[None, :, :, None] for part in patches.split(block)]
        whitening.cpu()
        if fit:
            whitening.fit(*moments_of(([part] for part in parts), by_position=False))
        for part in parts:
            part.copy_(whitening(part))
        whitening.to(self.device)

    def _extract(self, image: Tensor) -> Tensor:
        return self._features(image.to(self.device).contiguous(memory_format=torch.channels_last)).cpu()

    def _features(self, image: Tensor) -> Tensor:
        """Computes features (B, C, H / stride, W / stride), each level averaged over neighbouring positions."""
        side, features = 2 * self.pool + 1, self.backbone(image)
        averaged = [F.avg_pool2d(features[i], side, 1, self.pool, count_include_pad=False) for i in self.levels]
        return stack(averaged, grid_of(image, self.stride) if self.stride else size_of(averaged[0]))
