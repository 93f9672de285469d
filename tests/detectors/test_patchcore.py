"""PatchCore against numpy's own, the paper's weight, views pooled, and one path through saving."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anomalib_lite.data.images import ImageSet
from anomalib_lite.detectors.patchcore import PatchCore
from anomalib_lite.detectors.statistics import Whitening
from anomalib_lite.errors import UserError
from tests.detectors import small

FLIPPED = ({}, {"flip": "horizontal"})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return small.images(tmp_path_factory.mktemp("images"))


def detector(**options: Any) -> PatchCore:
    return PatchCore(small.backbone, **{"bank": 60, "levels": None} | options)


def numpy_patches(model: PatchCore, images: ImageSet, rows: list[int]) -> np.ndarray:
    """The coarser level alone: (images * positions, 12), each the mean of the 3 x 3 around it that lie inside."""
    (feature,) = [model.backbone(images[rows].image)[1].double().numpy()]
    inside = np.pad(np.ones(feature.shape[2:]), 1)
    padded = np.pad(feature, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = feature.shape[2:]
    shifts = [(y, x) for y in range(3) for x in range(3)]
    total = sum(padded[:, :, y : y + height, x : x + width] for y, x in shifts)
    count = sum(inside[y : y + height, x : x + width] for y, x in shifts)
    return (total / count).transpose(0, 2, 3, 1).reshape(-1, feature.shape[1])


def numpy_greedy(rows: np.ndarray, count: int, first: int) -> np.ndarray:
    chosen, near = [first], np.full(len(rows), np.inf)
    while len(chosen) < count:
        near = np.minimum(near, ((rows - rows[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(near.argmax()))
    return rows[chosen]


def test_bank_map_and_score_are_numpys(images: ImageSet):
    """The whole method on one level: patches, greedy coreset from the same first patch, distances, eq. 7's weight."""
    model = small.fit(detector(levels=[1], reweight=4), images)
    known, asked = numpy_patches(model, images, list(range(12))), numpy_patches(model, images, [0, 4])
    asked = asked + 0.05 * np.sin(np.arange(asked.size)).reshape(asked.shape)  # farther than rounding from the bank
    first = int(np.abs(known - model.banks[0].patches[0].numpy()).sum(1).argmin())
    bank = numpy_greedy(known, 60, first)
    np.testing.assert_allclose(model.banks[0].patches, bank, atol=1e-5)

    distances = np.linalg.norm(asked[:, None] - bank, axis=2).reshape(2, 24, 60)
    expected = distances.min(2)
    between = np.linalg.norm(bank[:, None] - bank, axis=2)
    for image, patches in enumerate(distances):
        worst = expected[image].argmax()
        near = patches[worst].argmin()
        around = np.exp(patches[worst][between[near].argsort()[:4]])
        expected[image] *= 1 - np.exp(patches[worst][near]) / around.sum()

    features = torch.from_numpy(asked).float().view(2, 4, 6, 12).permute(0, 3, 1, 2)
    model._features = lambda image: features
    found = model.anomaly_map(images[[0, 4]].image).view(2, 24).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_without_the_weight_the_map_is_the_distance_to_the_nearest(images: ImageSet):
    model = small.fit(detector(levels=[1]), images)
    asked, bank = numpy_patches(model, images, [3]), model.banks[0].patches.double().numpy()
    expected = np.linalg.norm(asked[:, None] - bank, axis=2).min(1)
    found = model.anomaly_map(images[[3]].image).flatten().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_remembered_is_no_anomaly(images: ImageSet):
    model = small.fit(detector(bank=1.0), images)
    assert len(model.banks[0].patches) == 12 * 24
    assert model.anomaly_map(images[[2, 7]].image).max() < 1e-4


@pytest.mark.parametrize("options", [{}, {"coreset": "random"}, {"whitening": partial(Whitening, 0.01)}])
def test_a_marked_square_is_found(images: ImageSet, options: dict):
    model, batch = small.fit(detector(**options), images), images[[0, 1]]
    batch.image[1, :, 8:24, 24:40] = 1.0
    map, score = small.predict(model, batch)
    assert score[1] > 2 * score[0]
    row, column = divmod(int(map[1].argmax()), small.SIZE[1])
    assert 4 <= row < 28 and 20 <= column < 44


def test_whitened_patches_have_unit_spread(images: ImageSet):
    model = small.fit(detector(bank=1.0, whitening=partial(Whitening, 1e-4)), images)
    patches = model.banks[0].patches
    assert patches.mean(0).abs().max() < 1e-3
    values = torch.linalg.eigvalsh(torch.cov(patches.T))
    assert values.max().item() == pytest.approx(1, abs=0.02) and values.max() >= 1 > values.min()


def test_the_bank_pools_the_views(images: ImageSet):
    model = small.fit(detector(bank=1.0), images, FLIPPED)
    assert len(model.banks[0].patches) == 2 * 12 * 24
    assert model.anomaly_map(images[[2]].image.flip(-1), view=1).max() < 1e-4


@pytest.mark.parametrize(("bank", "remembered"), [(10, 10), (0.25, 72), (10**6, 288)])
def test_the_bank_is_counted_or_shared(images: ImageSet, bank: int | float, remembered: int):
    assert len(small.fit(detector(bank=bank), images).banks[0].patches) == remembered


@pytest.mark.parametrize("options", [{"bank": 0}, {"bank": 1.5}, {"coreset": "kmeans"}])
def test_senseless_settings_are_refused(options: dict):
    with pytest.raises(UserError, match=r"detector\."):
        detector(**options)


@pytest.mark.parametrize("options", [{}, {"reweight": 9, "whitening": partial(Whitening, 0.01)}])
def test_what_is_saved_predicts_the_same_to_the_bit(images: ImageSet, options: dict, tmp_path: Path):
    model, batch = small.fit(detector(**options), images), images[[0, 3, 5]]
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    fresh = detector(**options, seed=5)
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    for own, other in zip(small.predict(model, batch), small.predict(fresh, batch), strict=True):
        assert torch.equal(own, other)


def test_the_same_seed_gives_the_same_bank(images: ImageSet):
    banks = [small.fit(detector(seed=seed, coreset="random"), images).banks[0].patches for seed in (0, 0, 1)]
    assert torch.equal(banks[0], banks[1]) and not torch.equal(banks[0], banks[2])
