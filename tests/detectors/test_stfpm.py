"""STFPM as its paper has it: map and loss by numpy."""

from functools import partial

import numpy as np
import pytest
import torch

from anomalib_lite.data.images import ImageSet
from anomalib_lite.detectors.stfpm import STFPM
from tests.detectors import small


def test_the_papers_map_is_one_minus_the_cosine_and_its_loss_the_mean_of_that(images: ImageSet):
    """Levels are multiplied in the map, as a geometric mean; or summed, as a mean. The loss adds them up."""
    torch.manual_seed(0)
    model, batch = STFPM(small.backbone, partial(torch.optim.SGD, lr=0.1)).eval(), images[[0, 1]]
    with torch.no_grad():
        teacher, student = model.teacher(batch.image), model.student(batch.image)
    levels = []
    for t, s in zip(teacher, student, strict=True):
        t, s = t.double().numpy(), s.double().numpy()
        levels.append(1 - (t * s).sum(1) / (np.linalg.norm(t, axis=1) * np.linalg.norm(s, axis=1)))
    coarse = torch.nn.functional.interpolate(torch.from_numpy(levels[1])[:, None], scale_factor=2, mode="bilinear")
    coarse = coarse[:, 0].numpy()
    for fusion, expected in (("product", np.sqrt(levels[0] * coarse)), ("sum", (levels[0] + coarse) / 2)):
        model.fusion = fusion
        with torch.no_grad():
            np.testing.assert_allclose(model.anomaly_map(batch.image)[:, 0], expected, atol=1e-6)
    assert model.training_step(batch).item() == pytest.approx(levels[0].mean() + levels[1].mean(), rel=1e-5)
