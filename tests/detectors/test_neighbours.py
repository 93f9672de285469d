"""AnomalyDINO, SuperADD and SubspaceAD against numpy on a small network, and on an untrained transformer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from anomalib_lite.backbones import Backbone, build
from anomalib_lite.data.images import ImageSet
from anomalib_lite.detectors.anomalydino import AnomalyDINO, foreground
from anomalib_lite.detectors.model import Method
from anomalib_lite.detectors.patchcore import PatchCore
from anomalib_lite.detectors.subspace import SubspaceAD
from anomalib_lite.detectors.superadd import SuperADD
from anomalib_lite.engine.evaluate import find_threshold
from anomalib_lite.errors import UserError
from tests.detectors import small

FEW = [0, 3, 5]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return small.images(tmp_path_factory.mktemp("images"), 6)


def rows_of(images: ImageSet, numbers: list[int], level: int) -> np.ndarray:
    features = small.backbone().eval()(images[numbers].image)[level]
    return features.detach().double().flatten(2).transpose(1, 2).flatten(0, 1).numpy()


def test_anomalydino_is_numpys_cosine_distance_to_all_tokens(images: ImageSet):
    model = small.fit(AnomalyDINO(small.backbone, [1], few=0, mask="off"), images)
    known, asked = rows_of(images, list(range(6)), 1), rows_of(images, FEW, 1)
    known, asked = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (known, asked))
    changed = images[FEW].image
    np.testing.assert_allclose(model.anomaly_map(changed).flatten(), 1 - (asked @ known.T).max(1), atol=1e-5)
    assert len(small.fit(AnomalyDINO(small.backbone, [1], turns=2), images).banks[0].patches) == 2 * len(known)


def test_the_product_is_where_the_first_component_is_large():
    """Either sign, with a hole closed, and against scikit-learn's component and OpenCV's morphology."""
    from sklearn.decomposition import PCA

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
    assert np.array_equal(found[0], seen) and found[0][5, 6]
    assert np.array_equal(found[1], seen)
    assert not foreground(features, 100.0).any()


class Painted(nn.Module):
    """Its only features are the image's colours, averaged over 4 px."""

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [nn.functional.avg_pool2d(image, 4)]


def painted() -> Backbone:
    return Backbone(Painted(), [0.5] * 3, [0.25] * 3)


@pytest.mark.parametrize(("texture", "masked"), [(False, True), (True, False)])
def test_a_texture_has_no_ground(texture: bool, masked: bool):
    """`auto` leaves the ground out where the middle stands out from the border, and keeps all of a texture."""
    model, generator = AnomalyDINO(painted, None, few=0), torch.Generator().manual_seed(0)
    pictures = torch.rand(3, 3, 48, 48, generator=generator)
    if not texture:
        pictures *= 0.2
        pictures[:, :, 12:36, 12:36] += 0.7

    class Held:
        image = pictures

        def __getitem__(self, numbers: list[int]) -> Held:
            return self

        def __len__(self) -> int:
            return 3

    class Once:
        dataset = Held()

        def __iter__(self):
            yield self.dataset

        def __len__(self) -> int:
            return 1

    small.model(model).calibrate(Once())  # type: ignore[arg-type]
    assert bool(model.masked) == masked == model.notes["ground_left_out"]
    odd = pictures[:1].clone()
    odd[:, :, :4, :4] = 0.0
    assert (model.anomaly_map(odd)[0, 0, 0, 0] == 0) == masked


def test_superadd_is_numpys_distance_a_channel_averaged_over_the_layers(images: ImageSet):
    options: dict[str, Any] = {"levels": None, "stride": 8, "brightness": (1.0, 1.0)}
    model = small.fit(SuperADD(small.backbone, **options), images)
    known, asked = (model._features(images[n].image).double() for n in (list(range(6)), FEW))
    maps = []
    for part, query in zip(known.split([8, 12], 1), asked.split([8, 12], 1), strict=True):
        rows, queries = (x.flatten(2).transpose(1, 2).flatten(0, 1).numpy() for x in (part, query))
        maps.append(np.linalg.norm(queries[:, None] - rows, axis=2).min(1) / rows.shape[1])
    np.testing.assert_allclose(model.anomaly_map(images[FEW].image).flatten(), np.mean(maps, 0), atol=1e-4)
    lit = small.fit(SuperADD(small.backbone, **options | {"brightness": (0.8, 1.2)}), images)
    bright = (images[FEW].image * 1.1).clamp(0, 1)
    assert lit.anomaly_map(bright).mean() < model.anomaly_map(bright).mean()
    few = small.fit(SuperADD(small.backbone, None, bank=30), images)
    assert [len(bank.patches) for bank in few.banks] == [30, 30]


def test_a_radius_leaves_out_what_is_of_all_places():
    with pytest.raises(UserError, match=r"detector\.radius"):
        PatchCore(small.backbone, levels=None, radius=1, reweight=9)


def test_subspace_is_the_residual_of_scikit_learns_components(images: ImageSet):
    from sklearn.decomposition import PCA

    model = small.fit(SubspaceAD(small.backbone, [1], share=0.9, few=0), images)
    known, asked = rows_of(images, list(range(6)), 1), rows_of(images, FEW, 1)
    pca = PCA(0.9, svd_solver="full").fit(known)
    residual = asked - pca.inverse_transform(pca.transform(asked))
    dropped = known.shape[1] - pca.n_components_
    assert model.notes["components"] == pca.n_components_
    expected = (residual**2).sum(1) / dropped
    np.testing.assert_allclose(model.anomaly_map(images[FEW].image).flatten(), expected, rtol=1e-3, atol=1e-6)


VIT = partial(build, "vit_tiny_patch16_224", [1, 2], "none")


@pytest.mark.parametrize(
    "make",
    [
        lambda: AnomalyDINO(VIT, None, turns=2),
        lambda: SuperADD(VIT, None, bank=20),
        lambda: SubspaceAD(VIT, None, merge="mean", turns=2),
        lambda: PatchCore(VIT, None, stride=None, radius=1, cosine=True, separate=True, bank=1.0, density=2),
    ],
)
def test_an_untrained_transformer_serves_all(make: Any, tmp_path: Path):
    """At a size that is a multiple of the patch; what it finds means nothing."""
    pictures = small.images(tmp_path, 3, (64, 48))
    model: Method = small.fit(make(), pictures)
    map = model.anomaly_map(pictures[[0, 1]].image)
    assert map.shape == (2, 1, 4, 3) and map.isfinite().all() and (map >= 0).all()


def test_a_percentile_of_ok_pixels_moves_the_pixel_threshold_alone(images: ImageSet):
    model = small.model(small.fit(SubspaceAD(small.backbone, [1], few=0), images))
    kept, _ = find_threshold(model, images, 4, 0.2)
    moved, _ = find_threshold(model, images, 4, 0.2, 95, 1.421)
    maps = model.predict_batch(images[list(range(6))]).map.numpy()
    assert moved.pixel == pytest.approx(1.421 * np.percentile(maps[:, :, ::4, ::4], 95), rel=1e-6)
    assert (moved.image, moved.promised_rate) == (kept.image, kept.promised_rate)
    assert "promises nothing" in moved.note and not kept.note
