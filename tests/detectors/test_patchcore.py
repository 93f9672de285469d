"""PatchCore: patches and distances by numpy, what a bank remembers. Coresets are held by test_coreset.py, the paper's
weight by test_parity.py."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from anomalib_lite.data.images import ImageSet
from anomalib_lite.detectors.patchcore import PatchCore
from anomalib_lite.detectors.statistics import Whitening
from anomalib_lite.errors import UserError
from tests.detectors import small


def detector(**options: Any) -> PatchCore:
    return PatchCore(small.backbone, **{"bank": 60, "levels": None} | options)


def numpy_patches(model: PatchCore, image: torch.Tensor) -> np.ndarray:
    """The coarser level alone: (images * positions, 12), each the mean of the 3 x 3 around it that lie inside."""
    feature = model.backbone(image)[1].double().numpy()
    padded = np.pad(feature, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.nanmean(windows, axis=(4, 5)).transpose(0, 2, 3, 1).reshape(-1, feature.shape[1])


def test_the_map_is_the_distance_to_the_nearest_patch(images: ImageSet):
    model, asked = small.fit(detector(levels=[1], bank=1.0), images), small.marked(images).image
    known = numpy_patches(model, images[list(range(12))].image)
    expected = np.linalg.norm(numpy_patches(model, asked)[:, None] - known, axis=2).min(1)
    np.testing.assert_allclose(model.anomaly_map(asked).flatten(), expected, rtol=1e-4, atol=1e-4)
    assert len(model.banks[0].patches) == len(known) and model.anomaly_map(asked[:1]).max() < 1e-4


def test_whitened_patches_have_unit_spread(images: ImageSet):
    patches = small.fit(detector(bank=1.0, whitening=partial(Whitening, 1e-4)), images).banks[0].patches
    assert patches.mean(0).abs().max() < 1e-3
    values = torch.linalg.eigvalsh(torch.cov(patches.T))
    assert values.max().item() == pytest.approx(1, abs=0.02) and values.max() >= 1 > values.min()


def test_the_bank_pools_the_views(images: ImageSet):
    model = small.fit(detector(bank=1.0), images, ({}, {"flip": "horizontal"}))
    assert len(model.banks[0].patches) == 2 * 12 * 24
    assert model.anomaly_map(images[[2]].image.flip(-1), view=1).max() < 1e-4


@pytest.mark.parametrize(
    ("options", "remembered"),
    [
        ({"bank": 10}, [10]), ({"bank": 0.25}, [72]), ({"bank": 10**6}, [288]),
        ({"bank": 30, "separate": True}, [30, 30]), ({"bank": 30, "turns": 4}, [30]),
        ({"bank": 1.0, "turns": 4}, [4 * 288]), ({"bank": 1.0, "turns": 4, "few": 11}, [288]),
    ],
)  # fmt: skip
def test_the_bank_is_counted_or_a_share_of_all_patches(images: ImageSet, options: dict, remembered: list[int]):
    assert [len(bank.patches) for bank in small.fit(detector(**options), images).banks] == remembered


def test_a_radius_leaves_out_what_is_of_all_places():
    with pytest.raises(UserError, match=r"detector\.radius"):
        detector(radius=1, reweight=9)
