"""Comparison with the template: what an image shows that its template does not, and the other way round."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import starmap

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from anomalib_lite.augment.tta import View
from anomalib_lite.detectors.levels import size_of
from anomalib_lite.detectors.model import Batches, Finish, MakeBackbone, Method
from anomalib_lite.detectors.statistics import Modules, Moments, PerView
from anomalib_lite.detectors.template_terms import NormalDifference, feature_distance, pixel_difference, shrink
from anomalib_lite.errors import UserError
from anomalib_lite.registration.template import Alignment

PIXEL_UNIT, FEATURE_UNIT = 0.1, 0.1  # differences that count as 1 without statistics of OK images


class TemplateComparison(Method):
    """Aligns the template to the image and maps how far features and pixels differ beyond small shifts.

    Nothing is trained. Features of each level are matched within a few positions of the other picture
    (`feature_distance`), pixels within a few pixels (`pixel_difference`), in both directions. Each term is standardised
    by its mean and standard deviation on OK images; the map is their weighted mean. If `reach` is None, the backbone is
    not built. Options: `settings.detectors.Template`.
    """

    fitted = ("normal",)
    needs_template = True

    def __init__(
        self,
        backbone: MakeBackbone,
        normal: Callable[..., NormalDifference],
        alignment: Alignment | None = None,
        reach: Sequence[int] | None = (2, 1, 1),
        tolerance: int | None = 2,
        pixel_weight: float = 1.0,
        pixel_blur: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if reach is None and tolerance is None:
            raise UserError("detector.reach and detector.tolerance are null, which leaves nothing to compare: set one.")
        self.backbone = None if reach is None else backbone().frozen()
        self.reach = list(reach or ())
        if self.backbone is not None and len(self.reach) != len(self.backbone.channels):
            raise UserError(
                f"detector.reach has {len(self.reach)} values for the backbone's {len(self.backbone.channels)} layers: "
                "give one value per layer."
            )
        self.alignment, self.laid_over = alignment, False
        self.tolerance, self.pixel_blur = tolerance, pixel_blur
        units = [FEATURE_UNIT] * len(self.reach) + [PIXEL_UNIT] * (tolerance is not None)
        self.weights = [1.0] * len(self.reach) + [pixel_weight] * (tolerance is not None)
        self.normal = PerView(partial(_normals, normal, units))
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
        device = self.device
        self.normal.reset(len(views))
        self.normal.to(device)
        if all(term.scope == "none" for normal in self.normal for term in normal):
            return
        for normal, view in zip(self.normal, views, strict=True):
            moments = [Moments() for _ in self.weights]
            for batch in tqdm(batches, f"OK pairs, image {view.label}", len(batches), delay=2, leave=False):
                image, template = (view.apply(t.to(device)) for t in (batch.image, required(batch.template)))
                terms = self.differences(image, *self.align(image, template))
                for moment, term in zip(moments, terms, strict=True):
                    moment.update_positions(term)
            for model, moment, term in zip(normal, moments, terms, strict=True):
                model.fit(moment, size_of(term))

    def anomaly_map(self, image: Tensor, template: Tensor | None = None, view: int = 0) -> Tensor:
        aligned, covered = self.align(image, required(template))
        return self.compare(image, aligned, covered, view)

    def align(self, image: Tensor, template: Tensor) -> tuple[Tensor, Tensor]:
        """Aligns templates to images (B, 3, H, W); returns them and the mask (B, 1, H, W) of pixels that they cover.

        If `laid_over` is set, templates (B, 4, H, W) are aligned already, and their fourth channel is the mask.
        """
        if self.laid_over:
            return template[:, :3], template[:, 3:] > 0.5
        if self.alignment is None:
            return template, torch.ones_like(image[:, :1], dtype=torch.bool)
        pixels = (t.detach().float().cpu().permute(0, 2, 3, 1).contiguous().numpy() for t in (image, template))
        aligned, covered = zip(*starmap(self.alignment, zip(*pixels, strict=True)), strict=True)
        templates = torch.from_numpy(np.stack(aligned)).permute(0, 3, 1, 2)
        return templates.to(image), torch.from_numpy(np.stack(covered))[:, None].to(image.device)

    def compare(self, image: Tensor, template: Tensor, covered: Tensor, view: int = 0) -> Tensor:
        """Computes the map (B, 1, h, w) of images and aligned templates (B, 3, H, W)."""
        terms = self.differences(image, template, covered)
        size = max((t.shape[-2:] for t in terms), key=lambda s: s[0] * s[1])
        total = torch.zeros_like(image[:, :1, : size[0], : size[1]])
        for term, normal, weight in zip(terms, self.normal[view], self.weights, strict=True):
            total += weight * F.interpolate(normal(term), size=size, mode="bilinear", align_corners=False)
        return total / sum(self.weights)

    def differences(self, image: Tensor, template: Tensor, covered: Tensor) -> list[Tensor]:
        """Computes the terms (B, 1, h, w), one per layer and one for pixels; 0 where the template covers nothing."""
        terms = []
        if self.backbone is not None:
            image_last, template_last = (t.contiguous(memory_format=torch.channels_last) for t in (image, template))
            pairs = zip(self.backbone(image_last), self.backbone(template_last), self.reach, strict=True)
            terms = [feature_distance(a, b, reach) for a, b, reach in pairs]
            terms = [t * (F.adaptive_avg_pool2d(covered.float(), size_of(t)) == 1) for t in terms]
        if self.tolerance is not None:
            a, b = (t if self.pixel_blur is None else self.pixel_blur(t) for t in (image, template))
            terms.append(pixel_difference(a, b, self.tolerance) * shrink(covered, self.tolerance + 1))
        return terms


def _normals(make: Callable[..., NormalDifference], units: Sequence[float]) -> Modules[NormalDifference]:
    """Makes one NormalDifference for each term's unit."""
    return Modules(make(unit=unit) for unit in units)


def required(template: Tensor | None) -> Tensor:
    """Returns the template; raises UserError if it is None."""
    if template is None:
        raise UserError(
            "This detector compares each image with a template, and the images have none. Add mode=template and "
            "data.template=FILE, an image of one good product, or use data with a template per image, e.g. "
            "data=deeppcb; for `anomalib-lite predict` add template=FILE."
        )
    return template
