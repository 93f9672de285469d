from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from anomalib_lite.errors import UserError
from anomalib_lite.scoring import GaussianBlur


def random_map(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1, 2.5, 4.0])
@pytest.mark.parametrize("shape", [(1, 1, 40, 40), (3, 1, 33, 57), (2, 1, 64, 17)])
def test_agrees_with_scipy(shape, sigma):
    map = random_map(*shape)
    expected = ndimage.gaussian_filter(map.double().numpy(), (0, 0, sigma, sigma), mode="mirror", truncate=4)
    np.testing.assert_allclose(GaussianBlur(sigma)(map).numpy(), expected, atol=1e-6)


def test_smallest_map_and_one_too_small():
    blur = GaussianBlur(2)  # reaches 8 px
    expected = ndimage.gaussian_filter(random_map(1, 1, 9, 9)[0, 0].numpy(), 2, mode="mirror")
    np.testing.assert_allclose(blur(random_map(1, 1, 9, 9))[0, 0].numpy(), expected, atol=1e-6)
    with pytest.raises(UserError, match=r"8 x 30 pixels is too small .* image_size above 8, or .*sigma of 1.75"):
        blur(random_map(1, 1, 8, 30))
    GaussianBlur(1.75)(random_map(1, 1, 8, 30))  # what it advises works


def test_zero_sigma_leaves_the_map():
    map = random_map(2, 1, 4, 4)
    assert torch.equal(GaussianBlur(0)(map), map)


@pytest.mark.parametrize("sigma", [-1, float("nan"), float("inf")])
def test_bad_sigma_is_refused(sigma):
    with pytest.raises(UserError, match="sigma"):
        GaussianBlur(sigma)


def test_constant_and_non_negative_maps_stay_so():
    blur = GaussianBlur(3)
    np.testing.assert_allclose(blur(torch.full((1, 1, 30, 30), 0.7)), 0.7, atol=1e-6)
    spike = torch.zeros(1, 1, 41, 41)
    spike[..., 20, 20] = 1
    assert blur(spike).min() >= 0
    assert blur(spike).sum() == pytest.approx(1, abs=1e-5)


def test_an_image_does_not_depend_on_its_batch():
    maps = random_map(5, 1, 32, 32)
    blur = GaussianBlur(2)
    assert torch.equal(blur(maps)[3:4], blur(maps[3:4]))


def test_autocast_does_not_round_the_map():
    maps = random_map(1, 1, 32, 32)
    blur = GaussianBlur(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = blur(maps)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, blur(maps))


def test_nothing_of_it_goes_into_a_checkpoint():
    assert GaussianBlur(4).state_dict() == {}


def test_exports_with_any_batch_size():
    blur = GaussianBlur(2)
    batch = {0: torch.export.Dim("batch", min=1)}
    exported = torch.export.export(blur, (random_map(2, 1, 32, 40),), dynamic_shapes=(batch,)).module()
    maps = random_map(5, 1, 32, 40, seed=1)
    assert torch.allclose(exported(maps), blur(maps), atol=1e-7)


def test_gradients_flow():
    map = random_map(1, 1, 20, 20).requires_grad_()
    GaussianBlur(1)(map).sum().backward()
    assert map.grad.sum() == pytest.approx(400, rel=1e-4)
