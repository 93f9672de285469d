"""Looks, evidence and the judge of a fusion against independent oracles."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from anomalib_lite.detectors import learned
from anomalib_lite.detectors.evidence import Gaussians, Neighbours, Subspace, position_matters, position_share
from anomalib_lite.detectors.feature_maps import appearance, rgb_to_lab
from anomalib_lite.detectors.members import Members, TrainingData, evaluate, fuse, sharpened


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def placed(count: int, seed: int = 0) -> torch.Tensor:
    """Looks (count, 5, 6, 8) with a mean of its own at each place."""
    return noise(count, 5, 6, 8, seed=seed) + 3 * noise(1, 5, 6, 8, seed=99)


def test_lab_is_that_of_opencv():
    """OpenCV's comes from a table, and is up to 0.6 off."""
    image = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    expected = [cv2.cvtColor(one.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2LAB) for one in image]
    found = rgb_to_lab(image).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, np.stack(expected), atol=0.7)
    assert torch.allclose(rgb_to_lab(torch.ones(1, 3, 1, 1)).flatten(), torch.tensor([100.0, 0, 0]), atol=0.02)


def test_sharpness_falls_where_a_picture_is_blurred_and_colour_stays():
    lines = torch.zeros(1, 3, 64, 64)
    lines[..., ::4] = 1
    soft = lines.clone()
    soft[..., 32:, :] = lines[..., 32:, :].mean()
    (_, sharp), (_, less) = (appearance(picture, (16, 16)) for picture in (lines, soft))
    assert (less[..., 10:, :] < sharp[..., 10:, :] - 3).all() and torch.allclose(less[..., :5, :], sharp[..., :5, :])


def test_the_place_explains_all_of_an_aligned_product_and_nothing_of_noise():
    assert position_share([placed(40)]) == pytest.approx(0.9, abs=0.03)
    assert position_share([noise(6, 5, 6, 8)]) < 0.05
    turned = torch.stack([one.flatten(1)[:, torch.randperm(48)].view(5, 6, 8) for one in placed(40)])
    assert position_share([turned]) < 0.05


@pytest.mark.parametrize("own", [Gaussians("deep"), Subspace("deep", share=0.8)])
def test_a_gaussian_knows_its_place_only_where_places_mean_something(own: Gaussians | Subspace):
    known = placed(60)
    moved = known[:1].roll(3, dims=3)  # OK looks at another place
    own.fit(known, aligned=True)
    here, there = own.distance(known[:1]).mean(), own.distance(moved).mean()
    assert isinstance(own, Subspace) or there > 3 * here
    own.fit(known, aligned=False)
    assert torch.allclose(own.distance(moved).mean(), own.distance(known[:1]).mean(), rtol=1e-4)


def test_deviations_are_white_and_their_mean_square_is_the_distance():
    known, own = placed(400), Gaussians("deep", ridge=0.0)
    own.fit(known, aligned=True)
    found = own.deviations(known)
    assert torch.allclose(found.square().mean(1, keepdim=True), own.distance(known), rtol=1e-4)
    assert found.mean().abs() < 0.01 and found.var() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("placed", "density"), [(False, 0), (True, 0), (False, 3)])
def test_neighbours_are_those_of_brute_force(placed: bool, density: int):
    known, asked = noise(4, 5, 6, 8).abs(), noise(2, 5, 6, 8, seed=1).abs()
    own = Neighbours("deep", bank=4 * 48, radius=1, density=density)
    own.fit(known, aligned=placed)
    bank, rows = (F.normalize(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), dim=1) for x in (known, asked))
    bank, rows = (x.double().permute(0, 2, 3, 1) for x in (bank, rows))
    distance = 1 - torch.einsum("bhwc,nyxc->bhwnyx", rows, bank)
    if placed:  # a place's own row and column, and those beside it
        far = [(torch.arange(n)[:, None] - torch.arange(n)).abs() > 1 for n in (6, 8)]
        distance = distance + 9 * (far[0][:, None, None, :, None] | far[1][:, None, None])
    expected, nearest = distance.flatten(3).min(3)
    if density:
        between = torch.cdist(bank.flatten(0, 2), bank.flatten(0, 2)).square() / 2
        usual = between.sort(1).values[:, 1 : density + 1].mean(1)
        expected = (expected - usual[nearest]).clamp_min(0)
    found = own.distance(asked)
    assert torch.allclose(found[:, 0].double(), expected, atol=1e-5)
    fresh = Neighbours("deep", radius=1)
    fresh.load_state_dict(own.state_dict())
    assert torch.equal(fresh.distance(asked), found), "what was saved knows whether places count"


def test_turning_tells_whether_a_place_means_anything():
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(5, 8, 8, generator=generator)
    turn = sum(pattern.rot90(turn, (1, 2)) for turn in range(4)) / 2  # a product in the middle that lies anyhow
    for product, counts in ((pattern, True), (turn, False)):
        images = product + 1.5 * torch.randn(24, 5, 8, 8, generator=generator)
        share, found = position_matters([[images.rot90(turn, (2, 3))] for turn in range(4)], seed=0)
        assert 0.2 < share < 0.45 and found == counts
    assert not position_matters([[torch.randn(24, 5, 8, 8, generator=generator)]] * 4, seed=0)[1]


def shown() -> TrainingData:
    """Aligned looks; every drawn image has a square that deviates."""
    source, mask = torch.arange(24), torch.zeros(24, 1, 6, 8)
    mask[:, :, 2:4, 3:6] = 1
    ok = {"fine": placed(24).half(), "deep": placed(24, 5).half()}
    bad = {name: (look.float() + 6 * mask * (1 + noise(24, 5, 1, 1))).half() for name, look in ok.items()}
    return TrainingData(ok, bad, mask, source % 5, source, source % 4)


def test_members_are_calibrated_by_images_that_they_have_not_learned_from():
    members = Members({"fine": Gaussians("fine"), "deep": Gaussians("deep")}, {"fine": 5, "deep": 5})
    known = shown()
    maps = members.fit(known, True, 0)
    for own in maps.values():
        maxima = own.ok.flatten(1).amax(1)
        assert maxima.mean().abs() < 1e-4 and maxima.std(correction=0) == pytest.approx(1, abs=1e-3)
    assert not known.ok and not known.drawn, "the looks are dropped on the way"
    seen = members.maps({name: look.float() for name, look in shown().ok.items()})["deep"].flatten(1).amax(1)
    assert seen.mean() < -0.5, "images that it has learned from look better than held-out ones"
    assert evaluate(maps["learned"].ok, maps["learned"].drawn, known.mask).image_auroc > 0.95


def test_a_network_alone_is_part_of_the_mean_and_learns_what_its_rows_say():
    networks = learned.Networks({"a": 4, "b": 3}, count=2, epochs=30, blur=0.0)
    deviations, mask = [noise(16, 4, 8, 8), noise(16, 3, 4, 4)], torch.zeros(16, 1, 8, 8)
    mask[8:, :, :4] = 1
    deviations[0][8:, :, :4] += 4
    generator = torch.Generator().manual_seed(0)
    for number in range(2):
        networks.learn(number, *learned.sample_positions(deviations, mask, generator), seed=number)
    each = [networks(deviations, number) for number in range(2)]
    assert torch.allclose(networks(deviations), (each[0] + each[1]) / 2, atol=1e-5)
    assert roc_auc_score(mask.flatten().numpy(), networks(deviations).flatten().numpy()) > 0.95
    assert learned.descriptors([deviations[1]]).shape == (16, 5, 4, 4)


@pytest.mark.parametrize("total", [2, 7, 200])
def test_steps_are_those_of_torchs_adamw_in_one_cycle_to_the_bit(total: int):
    torch.manual_seed(0)
    nets = [nn.Linear(5, 3), nn.Linear(5, 3)]
    nets[1].load_state_dict(nets[0].state_dict())
    own = learned.OneCycle(list(nets[0].parameters()), total)
    theirs = AdamW(nets[1].parameters(), learned.RATE, weight_decay=learned.DECAY)
    scheduler = OneCycleLR(theirs, learned.RATE, total_steps=total, pct_start=learned.RISE)
    for rows in torch.randn(total - 1, 8, 5):
        own.step(torch.autograd.grad(nets[0](rows).square().mean(), own.parameters))
        theirs.zero_grad()
        nets[1](rows).square().mean().backward()
        theirs.step()
        scheduler.step()
        assert all(map(torch.equal, *(net.parameters() for net in nets)))


@pytest.mark.parametrize("grid", [(8, 8), (3, 5)])
def test_a_drawn_place_is_described_as_the_whole_map_is(grid: tuple[int, int]):
    """Of the coarser looks only the drawn places are interpolated."""
    deviation, places = 5 * noise(1, 3, *grid), torch.tensor([0, 9, 41, 63])
    whole = torch.cat([deviation.asinh(), learned.log_magnitudes([deviation])], 1)
    wanted = F.interpolate(whole, size=(8, 8), mode="bilinear", align_corners=False)[0].flatten(1)[:, places].T
    found = learned.descriptors_at(deviation[0], learned.log_magnitudes([deviation])[0], places, (8, 8))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(learned.descriptors([deviation]), whole, atol=1e-5)


def test_the_judge_is_sklearns_and_counts_what_lies_beside_a_defect():
    ok, drawn, mask = noise(30, 1, 8, 8), noise(30, 1, 8, 8, seed=1), torch.zeros(30, 1, 8, 8)
    mask[:, :, :3, :3] = 1
    drawn[:20] += 2 * mask[:20]
    labels = np.repeat([0, 1], 30)
    maxima = torch.cat([ok, drawn]).flatten(1).amax(1).numpy()
    found = evaluate(ok, drawn, mask)
    assert found.image_auroc == pytest.approx(roc_auc_score(labels, maxima), abs=1e-4)
    halo = drawn + 3 * (mask == 0)
    assert evaluate(ok, halo, mask).aupro < found.aupro - 0.2


def test_what_spills_from_a_peak_is_lowered_and_the_peak_stays():
    heatmap = torch.zeros(1, 1, 40, 50)
    heatmap[..., 10, 10], heatmap[..., 12, 12] = 4.0, 2.0
    found = sharpened(heatmap)
    assert found.max() == found[0, 0, 10, 10] == 4
    assert found[0, 0, [12, 16, 30], [12, 10, 40]].tolist() == pytest.approx([2 - 0.3 * 2, -1.2, 0])  # 0: far away


def test_ways_of_fusing():
    maps = {"fine": torch.tensor([2.0]), "deep": torch.tensor([4.0]), "learned": torch.tensor([1.0])}
    maps = {name: value.view(1, 1, 1, 1) for name, value in maps.items()}
    assert fuse(maps, "max").item() == 4
    assert fuse(maps, "sum").item() == pytest.approx(0.5 * 3 + 0.5 * 1), "what is learned counts half"
    assert fuse(maps, "lse").item() == pytest.approx(np.log(np.exp([2.0, 4.0, 1.0]).sum()))
    assert fuse({"learned": maps["learned"]}, "sum").item() == 1
    ignorant = maps | {"deep": torch.full_like(maps["deep"], -9.0)}
    assert fuse(ignorant, "soft").item() == pytest.approx(0.25 * 2 + 0.5 * 1, abs=0.05), "who knows nothing has no veto"
