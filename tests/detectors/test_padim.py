"""PaDiM's channels and views; its distance is held by test_statistics.py and test_parity.py."""

from typing import Any

import torch

from anomalib_lite.data.images import ImageSet
from anomalib_lite.detectors.padim import PaDiM
from tests.detectors import small

FLIP = {"flip": "horizontal"}


def detector(**options: Any) -> PaDiM:
    return PaDiM(small.backbone, **{"levels": None, **options})


def test_channels_are_drawn_by_the_seed_without_repetition():
    draws = [detector(channels=7, seed=seed).kept for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert len(set(draws[0].tolist())) == 7 and max(draws[0]) < 20
    assert detector(channels=500).kept.tolist() == list(range(20))
    assert detector(levels=[1]).kept.tolist() == list(range(12))


@torch.no_grad()
def test_each_view_has_gaussians_of_its_own(images: ImageSet):
    """In the second view they are those of a model that has that view alone."""
    both, mirrored = small.fit(detector(), images, ({}, FLIP)), small.fit(detector(), images, (FLIP,))
    seen = images[[2, 3]].image.flip(-1)
    torch.testing.assert_close(both.anomaly_map(seen, view=1), mirrored.anomaly_map(seen), rtol=1e-5, atol=1e-6)
    assert (both.anomaly_map(seen, view=0) - mirrored.anomaly_map(seen)).abs().max() > 0.1
