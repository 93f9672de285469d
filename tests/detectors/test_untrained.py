"""Detectors that train nothing: PaDiM, PatchCore, AnomalyDINO, SuperADD, SubspaceAD.

Their maps are held by test_parity.py, too, coresets by test_coreset.py and Gaussians by test_statistics.py.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from anomalib_lite.backbones import Backbone
from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.detectors.anomalydino import AnomalyDINO, foreground
from anomalib_lite.detectors.padim import PaDiM
from anomalib_lite.detectors.patchcore import PatchCore
from anomalib_lite.detectors.statistics import Whitening
from anomalib_lite.detectors.subspace import SubspaceAD
from anomalib_lite.detectors.superadd import SuperADD
from anomalib_lite.engine.evaluate import find_threshold
from anomalib_lite.errors import UserError
from tests.detectors import small
from tests.made import write_pixels

FLIP = {"flip": "horizontal"}
ALL = list(range(12))


def padim(**options: Any) -> PaDiM:
    return PaDiM(small.backbone, **{"levels": None, **options})


def test_channels_are_drawn_by_the_seed_without_repetition():
    draws = [padim(channels=7, seed=seed).kept.tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2] and len({*draws[0]}) == 7 and max(draws[0]) < 20
    assert padim(channels=500).kept.tolist() == list(range(20))
    assert padim(channels=None, levels=[1]).kept.tolist() == list(range(12))


@torch.no_grad()
def test_each_view_has_gaussians_of_its_own(images: ImageSet):
    """In the second view they are those of a model that has that view alone."""
    both, mirrored = small.fit(padim(), images, ({}, FLIP)), small.fit(padim(), images, (FLIP,))
    seen = images[[2, 3]].image.flip(-1)
    torch.testing.assert_close(both.anomaly_map(seen, view=1), mirrored.anomaly_map(seen), rtol=1e-5, atol=1e-6)
    assert (both.anomaly_map(seen, view=0) - mirrored.anomaly_map(seen)).abs().max() > 0.1


def patchcore(**options: Any) -> PatchCore:
    return PatchCore(small.backbone, **{"bank": 60, "levels": None} | options)


def numpy_patches(model: PatchCore, image: torch.Tensor) -> np.ndarray:
    """The coarser level alone: (images * positions, 12), each the mean of the 3 x 3 around it that lie inside."""
    feature = model.backbone(image)[1].double().numpy()
    padded = np.pad(feature, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.nanmean(windows, axis=(4, 5)).transpose(0, 2, 3, 1).reshape(-1, feature.shape[1])


def test_the_map_is_the_distance_to_the_nearest_patch(images: ImageSet):
    model, asked = small.fit(patchcore(levels=[1], bank=1.0), images), small.marked(images).image
    known = numpy_patches(model, images[ALL].image)
    expected = np.linalg.norm(numpy_patches(model, asked)[:, None] - known, axis=2).min(1)
    np.testing.assert_allclose(model.anomaly_map(asked).flatten(), expected, rtol=1e-4, atol=1e-4)
    assert len(model.banks[0].patches) == len(known) and model.anomaly_map(asked[:1]).max() < 1e-4


def test_whitened_patches_have_unit_spread(images: ImageSet):
    patches = small.fit(patchcore(bank=1.0, whitening=partial(Whitening, 1e-4)), images).banks[0].patches
    assert patches.mean(0).abs().max() < 1e-3
    values = torch.linalg.eigvalsh(torch.cov(patches.T))
    assert values.max().item() == pytest.approx(1, abs=0.02) and values.max() >= 1 > values.min()


def test_the_bank_pools_the_views(images: ImageSet):
    model = small.fit(patchcore(bank=1.0), images, ({}, FLIP))
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
    assert [len(bank.patches) for bank in small.fit(patchcore(**options), images).banks] == remembered


def test_a_radius_leaves_out_what_is_of_all_places():
    with pytest.raises(UserError, match=r"detector\.radius"):
        patchcore(radius=1, reweight=9)


def test_the_product_is_where_the_first_component_is_large():
    """Either sign, with a hole closed, and against scikit-learn's component and OpenCV's morphology."""
    generator = torch.Generator().manual_seed(0)
    product = torch.zeros(12, 14, dtype=torch.bool)
    product[2:10, 3:11] = True
    product[5, 6] = False
    features = 0.3 * torch.randn(2, 8, 12, 14, generator=generator)
    features[:, :3] += 4 * torch.stack([product, ~product])[:, None]  # the ground is brighter in the second
    rows = features[0].flatten(1).T.numpy()
    component = PCA(1).fit_transform(rows).reshape(12, 14)
    component = component if component[5, 7] > 0 else -component
    seen = cv2.dilate((component > component.std() / 2).astype(np.uint8), np.ones((3, 3)))
    seen = cv2.morphologyEx(seen, cv2.MORPH_CLOSE, np.ones((3, 3))).astype(bool)
    found = foreground(features, None)[:, 0].numpy()
    assert (found == seen).all() and seen[5, 6]
    assert not foreground(features, 100.0).any()


class Painted(nn.Module):
    """Its only features are the image's colours, averaged over 4 px."""

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [nn.functional.avg_pool2d(image, 4)]


@pytest.mark.parametrize(("texture", "masked"), [(False, True), (True, False)])
def test_a_texture_has_no_ground(tmp_path: Path, texture: bool, masked: bool):
    """`auto` leaves the ground out where the middle stands out from the border, and keeps all of a texture."""
    pictures = np.random.default_rng(0).integers(0, 255, (3, 48, 48, 3), np.uint8)
    if not texture:
        pictures //= 5
        pictures[:, 12:36, 12:36] += 180
    files = [write_pixels(tmp_path / f"{k}.png", picture) for k, picture in enumerate(pictures)]
    images = ImageSet([Sample(file, OK) for file in files], (48, 48))
    model = small.fit(AnomalyDINO(lambda: Backbone(Painted(), [0.5] * 3, [0.25] * 3), None, few=0), images)
    assert bool(model.masked) == masked == model.notes["ground_left_out"]
    odd = images[[0]].image
    odd[:, :, :4, :4] = 0.0
    assert (model.anomaly_map(odd)[0, 0, 0, 0] == 0) == masked


def test_superadd_remembers_images_under_changed_light(images: ImageSet):
    steady, lit = (small.fit(SuperADD(small.backbone, None, brightness=b), images) for b in ((1.0, 1.0), (0.8, 1.2)))
    bright = (images[[0, 3, 5]].image * 1.1).clamp(0, 1)
    assert lit.anomaly_map(bright).mean() < steady.anomaly_map(bright).mean()


def test_subspace_is_the_residual_of_scikit_learns_components(images: ImageSet):
    model = small.fit(SubspaceAD(small.backbone, [1], share=0.9, few=0), images)
    asked = small.marked(images).image
    known, rows = (
        model.backbone(image)[1].double().movedim(1, -1).flatten(0, 2).numpy() for image in (images[ALL].image, asked)
    )
    pca = PCA(0.9, svd_solver="full").fit(known)
    residual = rows - pca.inverse_transform(pca.transform(rows))
    dropped = known.shape[1] - pca.n_components_
    assert model.notes["components"] == pca.n_components_
    np.testing.assert_allclose(model.anomaly_map(asked).flatten(), (residual**2).sum(1) / dropped, rtol=1e-3, atol=1e-6)


def test_a_percentile_of_ok_pixels_moves_the_pixel_threshold_alone(images: ImageSet):
    model = small.model(small.fit(SubspaceAD(small.backbone, [1], few=0), images))
    (kept, _), (moved, _) = (find_threshold(model, images, 4, 0.2, *more) for more in ((), (95, 1.421)))
    maps = model.predict_batch(images[ALL]).map.numpy()
    assert moved.pixel == pytest.approx(1.421 * np.percentile(maps[:, :, ::4, ::4], 95), rel=1e-6)
    assert (moved.image, moved.promised_rate) == (kept.image, kept.promised_rate)
    assert "no false-alarm rate is guaranteed" in moved.note and not kept.note
    samples = [replace(sample, category="ab"[k % 2]) for k, sample in enumerate(images.samples)]
    both, _ = find_threshold(model, ImageSet(samples, images.size), 4, 0.2, 95, 1.421)
    for k, name in enumerate("ab"):
        pixel = 1.421 * np.percentile(maps[k::2, :, ::4, ::4], 95)
        assert both.of(name).pixel == pytest.approx(pixel, rel=1e-6), "of the category's own images"
