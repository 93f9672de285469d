"""Banks against numpy's brute force: places near by, directions, local density, thinning, turned copies."""

import numpy as np
import pytest
import torch

from anomalib_lite.augment.tta import View
from anomalib_lite.detectors.coreset import Bank, looked_at, thinned, turned

H, W, C = 5, 7, 6


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def brute_force(features: np.ndarray, bank: np.ndarray, radius: int, cosine: bool, density: int) -> np.ndarray:
    """features (B, C, H, W), bank (H * W, K, C): the smallest distance from what lies near, place by place."""
    if cosine:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
        bank = bank / np.linalg.norm(bank, axis=2, keepdims=True)
    found = np.full((len(features), H, W), np.inf)
    bank = bank.reshape(H, W, -1, C)
    for b, y, x in np.ndindex(*found.shape):
        near = bank[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        far = np.linalg.norm(near - features[b, :, y, x], axis=3)
        r, c, k = np.unravel_index(far.argmin(), far.shape)
        found[b, y, x] = far.min() ** 2 / 2 if cosine else far.min()
        if density:
            own = np.sort(np.linalg.norm(near[r, c] - near[r, c, k], axis=1))[1 : density + 1]
            found[b, y, x] -= (own**2 / 2 if cosine else own).mean()
    return found.clip(0) if density else found


@pytest.mark.parametrize("radius", [0, 1, 2, 6])
@pytest.mark.parametrize(("cosine", "density"), [(False, 0), (True, 0), (True, 3), (False, 3)])
def test_places_near_by_are_those_of_brute_force(radius: int, cosine: bool, density: int):
    features, patches = drawn(3, C, H, W), drawn(H * W, 4, C)
    bank, rows = Bank(cosine, radius), patches
    if cosine:
        rows = torch.nn.functional.normalize(patches, dim=-1)
    bank.remember(rows, rows, density)
    expected = brute_force(features.double().numpy(), patches.double().numpy(), radius, cosine, density)
    np.testing.assert_allclose(bank(features)[:, 0], expected, atol=1e-5)


def test_local_density_is_that_of_all_candidates():
    """What is remembered may be a few of them; their neighbours are counted among all."""
    candidates, features = drawn(200, C), drawn(1, C, H, W)
    bank = Bank()
    bank.remember(candidates[:20], candidates, density=9)
    far = np.linalg.norm(candidates[:20, None] - candidates, axis=2)
    own = np.sort(far, 1)[:, 1:10].mean(1)
    asked = np.linalg.norm(features.flatten(2)[0].T[:, None] - candidates[:20], axis=2)
    expected = (asked.min(1) - own[asked.argmin(1)]).clip(0)
    np.testing.assert_allclose(bank(features).flatten(), expected, atol=1e-5)


def test_thinning_takes_from_the_crowd():
    """Of a tight cluster and a third as many scattered rows, most that is left is scattered; none is taken twice."""
    rows = torch.cat([0.01 * drawn(900, C), drawn(300, C)])
    chosen = thinned(rows, 300, torch.Generator().manual_seed(0))
    assert len(chosen) == len(chosen.unique()) == 300
    assert (chosen >= 900).sum() > 150  # a fair draw has 75
    again = thinned(rows, 300, torch.Generator().manual_seed(0))
    assert torch.equal(chosen, again)


@pytest.mark.parametrize(("rows", "count"), [(40, 40), (40, 1), (3000, 2999), (3000, 10)])
def test_thinning_keeps_as_many_as_asked_for(rows: int, count: int):
    """Also of rows that are all alike, and from many of which few are kept."""
    for given in (drawn(rows, 2), torch.ones(rows, 2)):
        assert len(thinned(given, count, torch.Generator().manual_seed(0)).unique()) == count


def test_turned_copies_are_quarter_turns_exactly():
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    looks = turned([View()], 4)
    assert looked_at(image, looks[0]) is image
    for quarters, look in enumerate(looks):
        torch.testing.assert_close(looked_at(image, look), image.rot90(quarters, (2, 3)), atol=1e-5, rtol=0)
