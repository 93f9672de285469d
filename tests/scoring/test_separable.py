"""Products with a matrix from either side are what they stand for."""

import pytest
import torch
import torch.nn.functional as F

from anomalib_lite.scoring import GaussianBlur
from anomalib_lite.scoring.separable import averaged, enlarged


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
