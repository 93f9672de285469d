"""PaDiM against numpy's own, its channels, its views, and one path through saving."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anomalib_lite.data.images import ImageSet
from anomalib_lite.detectors.padim import PaDiM
from tests.detectors import small

FLIPPED = ({}, {"flip": "horizontal"})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return small.images(tmp_path_factory.mktemp("images"))


def detector(**options: Any) -> PaDiM:
    return PaDiM(small.backbone, **{"levels": None, **options})


def numpy_padim(images: np.ndarray, asked: np.ndarray, kept: np.ndarray, ridge: float) -> np.ndarray:
    """The paper's method on features (N, C, h, w), position by position."""
    result = np.empty((len(asked), *images.shape[2:]))
    variances = images[:, kept].var(0).mean()
    for y in range(images.shape[2]):
        for x in range(images.shape[3]):
            rows = images[:, kept, y, x]
            covariance = np.cov(rows.T, bias=True) + ridge * variances * np.eye(len(kept))
            difference = asked[:, kept, y, x] - rows.mean(0)
            squared = np.einsum("bi,ij,bj->b", difference, np.linalg.inv(covariance), difference)
            result[:, y, x] = np.sqrt(squared / len(kept))
    return result


def numpy_features(model: PaDiM, images: ImageSet, rows: list[int]) -> np.ndarray:
    """Both levels on the grid of stride 8: the finer one averaged over 2 x 2."""
    fine, coarse = (f.double().numpy() for f in model.backbone(images[rows].image))
    averaged = fine.reshape(*fine.shape[:2], 4, 2, 6, 2).mean((3, 5))
    return np.concatenate([averaged, coarse], axis=1)


@pytest.mark.parametrize("channels", [None, 7])
def test_the_map_is_numpys_mahalanobis_distance(images: ImageSet, channels: int | None):
    model = small.fit(detector(channels=channels, shrinkage=0.0, ridge=0.02), images)
    known, asked = numpy_features(model, images, list(range(12))), numpy_features(model, images, [0, 4])
    with torch.no_grad():
        found = model.anomaly_map(images[[0, 4]].image).numpy()
    expected = numpy_padim(known, asked, model.kept.numpy(), 0.02)
    assert found.shape == (2, 1, 4, 6)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4)


def test_a_marked_square_is_found(images: ImageSet):
    model, batch = small.fit(detector(), images), images[[0, 1]]
    batch.image[1, :, 8:24, 24:40] = 1.0
    map, score = small.predict(model, batch)
    assert score[1] > 3 * score[0]
    row, column = divmod(int(map[1].argmax()), small.SIZE[1])
    assert 8 <= row < 24 and 24 <= column < 40


def test_channels_are_drawn_by_the_seed_without_repetition():
    draws = [detector(channels=7, seed=seed).kept for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert len(set(draws[0].tolist())) == 7 and max(draws[0]) < 20
    assert detector(channels=500).kept.tolist() == list(range(20))
    assert detector(levels=[1]).kept.tolist() == list(range(12))


def test_each_view_has_gaussians_of_its_own(images: ImageSet):
    """A mirrored image in the mirrored view has the map of the image in the first view of a mirrored training set."""
    model, batch = small.fit(detector(), images, FLIPPED), images[[2, 3]]
    with torch.no_grad():
        seen = model.anomaly_map(batch.image.flip(-1), view=1)
        wrong = model.anomaly_map(batch.image.flip(-1), view=0)
    mirrored = small.fit(detector(), Mirrored(images))
    with torch.no_grad():
        expected = mirrored.anomaly_map(batch.image.flip(-1))
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-6)
    assert (wrong - expected).abs().max() > 0.1


class Mirrored(ImageSet):
    """A set seen in a mirror."""

    def __init__(self, images: ImageSet) -> None:
        super().__init__(images.samples, images.size)
        self._pixels = np.ascontiguousarray(self._pixels[:, :, ::-1])


@pytest.mark.parametrize("views", [({},), FLIPPED])
def test_what_is_saved_predicts_the_same_to_the_bit(images: ImageSet, views: Any, tmp_path: Path):
    model, batch = small.fit(detector(channels=7), images, views), images[[0, 3, 5]]
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    fresh = detector(channels=7, seed=5)
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    for own, other in zip(small.predict(model, batch, views), small.predict(fresh, batch, views), strict=True):
        assert torch.equal(own, other)


def test_the_backbone_stays_as_it_was(images: ImageSet):
    model = detector()
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    small.predict(small.fit(model.train(), images), images[[0]])
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert not any(p.requires_grad for p in model.backbone.parameters())
