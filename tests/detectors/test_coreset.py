"""Patches that are gathered, a few that cover all, and what is near them: against plain searches."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anomalib_lite.augment.tta import View
from anomalib_lite.detectors import coreset

GENERATOR = torch.Generator().manual_seed(0)
BANK, QUERIES = (torch.randn(n, 12, generator=GENERATOR) + 5 for n in (90, 50))
IMAGES, POSITIONS, CHANNELS = 10, 12, 5


class Numbered(list):
    """Batches of images whose features say which image and position they are of."""

    dataset = range(IMAGES)


def gather(rows: int, views: tuple[View, ...] = (View(),), seed: int = 0) -> torch.Tensor:
    """Gathers within the memory of so many rows."""
    images = torch.arange(IMAGES).view(-1, 1, 1, 1).expand(-1, CHANNELS, 3, 4) * 100.0
    images = images + torch.arange(POSITIONS).view(3, 4)
    batches = Numbered(SimpleNamespace(image=part) for part in images.split(4))
    generator, limit_mb = torch.Generator().manual_seed(seed), rows * CHANNELS * 4 / 2**20
    return coreset.gather_candidates(batches, lambda image: image, [(view, 0.0) for view in views], limit_mb, generator)


@pytest.mark.parametrize(("limit", "each"), [(IMAGES * POSITIONS, POSITIONS), (119, 11), (55, 5), (10, 1), (0, 1)])
def test_of_each_image_as_many_are_drawn_as_fit_and_at_least_one(limit: int, each: int):
    rows = gather(limit)
    assert (rows == rows[:, :1]).all(), "a row is one position's channels"
    rows = rows[:, 0].long()
    assert len(rows.unique()) == len(rows) and set((rows % 100).tolist()) <= set(range(POSITIONS))
    assert (rows // 100).bincount().tolist() == [each] * IMAGES


def test_draws_follow_the_generator_and_views_share_the_limit():
    assert torch.equal(gather(50), gather(50)) and not torch.equal(gather(50), gather(50, seed=1))
    assert len(gather(60, (View(), View("horizontal")))) == 60


@pytest.mark.parametrize(("side", "most"), [(32, 16), (512, 2), (2048, 1)])
def test_whole_images_are_looked_at_fewer_together_the_larger_they_are(side: int, most: int):
    class Numbers:
        size, asked = (side, side), list[int]()

        def __len__(self) -> int:
            return 20

        def __getitem__(self, indices: list[int]) -> SimpleNamespace:
            self.asked.append(len(indices))
            return SimpleNamespace(image=torch.tensor(indices).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2))

    found = coreset.gather_images(Numbers(), lambda image: image, View(), 1.0, 1.0)
    assert max(Numbers.asked) == most and torch.equal(found, torch.arange(20.0).view(1, -1, 1).expand(4, -1, 1))


def made(count: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    """Clusters of unequal spread and size, far from the origin, as features are."""
    generator = torch.Generator().manual_seed(seed)
    cluster = torch.randint(0, 6, (count,), generator=generator).square() // 5
    centres = 4 * torch.randn(6, dimensions, generator=generator) + 3
    return centres[cluster] + torch.randn(count, dimensions, generator=generator) * (0.2 + cluster[:, None])


def brute_force(rows: np.ndarray, count: int, first: int) -> list[int]:
    chosen, nearest = [first], np.full(len(rows), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, ((rows - rows[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(nearest.argmax()))
    return chosen


@pytest.mark.parametrize(
    ("pool", "block", "first"), [(1, 16384, 0), (7, 16384, 123), (64, 37, 0), (5000, 16384, 123), (5000, 37, 0)]
)
def test_the_choices_are_those_of_the_plain_greedy(monkeypatch: pytest.MonkeyPatch, pool: int, block: int, first: int):
    """Whatever the number of rows that are updated, and searched, together."""
    monkeypatch.setattr(coreset, "POOL", pool)
    monkeypatch.setattr(coreset, "_update_nearest", partial(coreset._update_nearest, block=block))
    rows = made(600, 8)
    assert coreset.greedy_centres(rows, 150, first).tolist() == brute_force(rows.double().numpy(), 150, first)


def test_nothing_is_chosen_twice_even_among_copies():
    chosen = coreset.greedy_centres(made(40, 4).repeat(5, 1), 120).tolist()
    assert len(set(chosen)) == 120
    assert {i % 40 for i in chosen[:40]} == set(range(40)), "each distinct row comes before any copy"
    assert sorted(coreset.greedy_centres(made(30, 4), 100).tolist()) == list(range(30)), "more than there are gives all"


def test_the_projection_keeps_distances():
    rows = made(300, 400)
    projected = coreset.random_projection(rows, 64, torch.Generator().manual_seed(0))
    ratio = torch.pdist(projected) / torch.pdist(rows)
    assert projected.shape == (300, 64)
    assert ratio.mean().item() == pytest.approx(1, abs=0.03) and ratio.std() < 0.12  # 1 / sqrt(2 * 64) = 0.09
    assert coreset.random_projection(rows, 400, torch.Generator()) is rows


@pytest.mark.parametrize("block", [1, 13, 1000])
def test_the_nearest_and_several_are_numpys(monkeypatch: pytest.MonkeyPatch, block: int):
    monkeypatch.setattr(coreset, "QUERIES", block)
    monkeypatch.setattr(coreset, "ROWS", block + 1)
    expected = np.linalg.norm(QUERIES.double().numpy()[:, None] - BANK.double().numpy(), axis=2)
    (found, index), (several, indices) = coreset.nearest(QUERIES, BANK), coreset.nearest_several(QUERIES, BANK, 4)
    assert index.tolist() == expected.argmin(1).tolist() and indices.tolist() == expected.argsort(1)[:, :4].tolist()
    np.testing.assert_allclose(found, expected.min(1), rtol=1e-6)
    np.testing.assert_allclose(several, np.sort(expected, axis=1)[:, :4], rtol=1e-6)
    assert coreset.nearest_several(QUERIES, BANK[:3], 9)[0].shape == (50, 3), "of few rows all are several"


def test_a_remembered_row_is_at_distance_zero_and_a_close_one_at_its_distance():
    """The product form alone would round both to some 1e-2 here."""
    bank = BANK + 1000
    assert coreset.nearest(bank[[7, 80]], bank)[0].tolist() == [0, 0]
    close = bank[[7]] + torch.tensor([2.0**-10] + [0.0] * 11)
    assert coreset.nearest(close, bank)[0].item() == pytest.approx(2**-10, rel=1e-6)


H, W, C = 5, 7, 6


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def nearby(features: np.ndarray, bank: np.ndarray, radius: int, cosine: bool, density: int) -> np.ndarray:
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
    bank, rows = coreset.Bank(cosine, radius), torch.nn.functional.normalize(patches, dim=-1) if cosine else patches
    bank.store(rows, rows, density)
    expected = nearby(features.double().numpy(), patches.double().numpy(), radius, cosine, density)
    np.testing.assert_allclose(bank(features)[:, 0], expected, atol=1e-5)


def test_local_density_is_that_of_all_candidates():
    """What is remembered may be a few of them; their neighbours are counted among all."""
    candidates, features = drawn(200, C), drawn(1, C, H, W)
    bank = coreset.Bank()
    bank.store(candidates[:20], candidates, density=9)
    far = np.linalg.norm(candidates[:20, None] - candidates, axis=2)
    own = np.sort(far, 1)[:, 1:10].mean(1)
    asked = np.linalg.norm(features.flatten(2)[0].T[:, None] - candidates[:20], axis=2)
    expected = (asked.min(1) - own[asked.argmin(1)]).clip(0)
    np.testing.assert_allclose(bank(features).flatten(), expected, atol=1e-5)


def test_thinning_takes_from_the_crowd():
    """Of a tight cluster and a third as many scattered rows, most that is left is scattered; none is taken twice."""
    rows = torch.cat([0.01 * drawn(900, C), drawn(300, C)])
    chosen, again = (coreset.thinned(rows, 300, torch.Generator().manual_seed(0)) for _ in range(2))
    assert len(chosen) == len(chosen.unique()) == 300 and torch.equal(chosen, again)
    assert (chosen >= 900).sum() > 150  # a fair draw has 75


@pytest.mark.parametrize(("rows", "count"), [(40, 40), (40, 1), (3000, 2999), (3000, 10)])
def test_thinning_keeps_as_many_as_asked_for(rows: int, count: int):
    """Also of rows that are all alike, and from many of which few are kept."""
    for given in (drawn(rows, 2), torch.ones(rows, 2)):
        assert len(coreset.thinned(given, count, torch.Generator().manual_seed(0)).unique()) == count


def test_turned_copies_are_quarter_turns_exactly():
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    looks = coreset.rotated_views([View()], 4)
    assert coreset.apply_view(image, looks[0]) is image
    for quarters, look in enumerate(looks):
        torch.testing.assert_close(coreset.apply_view(image, look), image.rot90(quarters, (2, 3)), atol=1e-5, rtol=0)
