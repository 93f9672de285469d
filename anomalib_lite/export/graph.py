"""The graph that is exported: pixels of any size -> map, score and verdict."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from anomalib_lite.detectors.model import Model
from anomalib_lite.detectors.template import TemplateComparison
from anomalib_lite.errors import UserError
from anomalib_lite.export.resize import Resize
from anomalib_lite.registration.template import Alignment

OUTPUTS = ("map", "score", "nok")


class Deployed(nn.Module):
    """A model from uint8 RGB pixels (N, H, W, 3) of any size to map (N, h, w), score (N,) and nok (N,).

    nok: True where the score lies above the threshold, and where it is no number. A model that compares with a template
    also takes that, float32 (N, h, w, 4) at its own size: the template laid over each image, in [0, 1], and 1 where it
    shows anything. Laying it over is OpenCV's search, which is no part of any graph.

    Errors: UserError where the model judges by what is no graph.
    """

    limit: Tensor

    def __init__(self, model: Model, size: Sequence[int], threshold: float) -> None:
        super().__init__()
        self.size, self.resize, self.model = tuple(size), Resize(*size), deepcopy(model)  # what is settled is the copy
        self.compares, self.alignment = _comparison(self.model)
        for module in self.model.modules():  # a graph asks no tensor what to do: what was chosen is settled
            if settle := getattr(module, "settle", None):
                settle()
        self.register_buffer("limit", torch.tensor(threshold, dtype=torch.float32))

    def forward(self, pixels: Tensor, template: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        image = self.resize(pixels).permute(0, 3, 1, 2) / 255
        map, score = self.model(image, None if template is None else template.permute(0, 3, 1, 2))
        return map[:, 0], score, ~(score <= self.limit)

    def example(self, batch: int | None) -> dict[str, Tensor]:
        """Inputs to trace the graph with, of a size that is not the model's."""
        count = batch or 2
        pixels = torch.zeros(count, self.size[0] * 2 + 2, self.size[1] * 2 + 6, 3, dtype=torch.uint8)
        return {"pixels": pixels} | ({"template": torch.ones(count, *self.size, 4)} if self.compares else {})


def _comparison(model: Model) -> tuple[bool, Alignment | None]:
    """Whether the model compares with a template, and how that is laid over the images."""
    found = [m for m in model.modules() if isinstance(m, TemplateComparison)]
    if not found:
        return False, None
    if [view for view in model.views.views if not view.identity]:
        raise UserError(
            "A detector that compares with a template lays it over each view of test-time augmentation anew, which an "
            "exported graph cannot: train with tta=none."
        )
    for comparison in found:
        comparison.laid_over = True
    return True, found[0].alignment
