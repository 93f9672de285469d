"""Maps enlarged and smoothed, against scipy and torch, and their scores."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from anomalib_lite.errors import UserError
from anomalib_lite.scoring import GaussianBlur, MaxScore, TopKScore
from anomalib_lite.scoring.maps import averaged, enlarged


def random_map(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("shape", "sigma"),
    [((1, 1, 40, 40), 0.1), ((3, 1, 33, 57), 2.5), ((2, 1, 64, 17), 4.0), ((1, 1, 9, 9), 2.0)],  # the last as small
)
def test_agrees_with_scipy(shape, sigma):
    heatmap = random_map(*shape)
    expected = ndimage.gaussian_filter(heatmap.double().numpy(), (0, 0, sigma, sigma), mode="mirror", truncate=4)
    np.testing.assert_allclose(GaussianBlur(sigma)(heatmap).numpy(), expected, atol=1e-6)


def test_a_map_too_small_is_refused_and_no_blur_leaves_it():
    with pytest.raises(UserError, match=r"8 x 30 pixels is too small .* image_size above 8, or .*sigma of 1.75"):
        GaussianBlur(2)(random_map(1, 1, 8, 30))  # reaches 8 px
    GaussianBlur(1.75)(random_map(1, 1, 8, 30))  # what it advises works
    assert torch.equal(GaussianBlur(0)(random_map(2, 1, 4, 4)), random_map(2, 1, 4, 4))


def test_an_image_depends_neither_on_its_batch_nor_on_autocast():
    maps, blur = random_map(5, 1, 32, 32), GaussianBlur(2)
    assert torch.equal(blur(maps)[3:4], blur(maps[3:4]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = blur(maps)
    assert inside.dtype == torch.float32 and torch.equal(inside, blur(maps))


@pytest.mark.parametrize(("own", "size"), [((16, 16), (64, 64)), ((7, 9), (30, 20)), ((12, 8), (12, 8))])
def test_enlarged_without_smoothing_is_bilinear(own: tuple[int, int], size: tuple[int, int]):
    heatmap = torch.rand(2, 3, *own)
    expected = F.interpolate(heatmap, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged(heatmap, size, 0.0, 3, "edge"), expected)


@pytest.mark.parametrize("sigma", [0.0, 1.0, 4.0])
def test_a_coarse_map_is_blurred_as_the_fine_one(sigma: float):
    heatmap, blur = torch.rand(2, 1, 16, 20), GaussianBlur(sigma)
    fine = F.interpolate(heatmap, size=(64, 70), mode="bilinear", align_corners=False)
    torch.testing.assert_close(blur.enlarged(heatmap, (64, 70)), blur(fine))


@pytest.mark.parametrize("size", [(64, 64), (63, 10)])
def test_windows_that_overlap_are_averaged_as_torch_does(size: tuple[int, int]):
    heatmap = torch.rand(2, 1, 254, 256)
    torch.testing.assert_close(averaged(heatmap, size), F.adaptive_avg_pool2d(heatmap, size))


def ramp():
    """Two maps with the values 0..99, shuffled, the second one ten times as large."""
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).float().view(1, 1, 10, 10)
    return torch.cat([order, order * 10])


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [(1, 99), (3, 98), (0.03, 98), (0.001, 99), (1.0, 49.5), (100, 49.5), (10**6, 49.5), (0.5, 74.5)],
)
def test_mean_of_the_largest(pixels, expected):
    assert TopKScore(pixels)(ramp()).tolist() == pytest.approx([expected, expected * 10])
    assert MaxScore()(ramp()).tolist() == [99, 990]


@pytest.mark.parametrize("pixels", [0, -3, 0.0, 1.5, -0.1, True, float("nan")])
def test_bad_counts_and_shares_are_refused(pixels):
    with pytest.raises(UserError, match="pixels"):
        TopKScore(pixels)


@pytest.mark.parametrize("part", [GaussianBlur(1), MaxScore(), TopKScore(0.05), TopKScore(7)])
def test_exports_with_any_batch_size_and_keeps_nothing_in_a_checkpoint(part):
    batch = {0: torch.export.Dim("batch", min=1)}
    exported = torch.export.export(part, (ramp(),), dynamic_shapes=(batch,)).module()
    maps = torch.cat([ramp(), ramp(), ramp()])
    torch.testing.assert_close(exported(maps), part(maps), rtol=0, atol=1e-5)
    assert part.state_dict() == {}
