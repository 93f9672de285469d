"""Comparison with the template: distances against loops, what a shift costs, what OK pairs teach, one path."""

from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_lite.augment.tta import TestTimeAugmentation
from anomalib_lite.data.sample import Batch
from anomalib_lite.detectors.model import Model
from anomalib_lite.detectors.statistics import moments_of
from anomalib_lite.detectors.template import TemplateComparison
from anomalib_lite.detectors.template_terms import NormalDifference, feature_distance, pixel_difference, shrink
from anomalib_lite.errors import UserError
from anomalib_lite.registration.template import Alignment
from anomalib_lite.scoring import GaussianBlur, MaxScore
from tests.detectors import small

SIZE = (48, 64)


def detector(scope: str = "position", views=({},), **changes) -> Model:
    settings = {"reach": (1, 1), "alignment": Alignment()} | changes
    return small.model(TemplateComparison(small.backbone, partial(NormalDifference, scope), **settings), views).eval()


def pictures(count: int = 2, seed: int = 0) -> Tensor:
    """Blobs (B, 3, H, W) in [0, 1]."""
    noise = torch.rand((count, 3, SIZE[0] // 8, SIZE[1] // 8), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=SIZE, mode="bicubic").clamp(0, 1)


def batch(image: Tensor, template: Tensor) -> Batch:
    empty, label = torch.zeros_like(image[:, :1], dtype=torch.bool), torch.zeros(len(image), dtype=torch.long)
    return Batch(image, empty, label == 0, label, torch.ones(len(image)), torch.arange(len(image)), template)


class Loader(list):
    """Batches as a loader gives them."""

    @property
    def dataset(self) -> list:
        return [row for b in self for row in b.image]


def noisy(template: Tensor, seed: int, share: float = 0.02) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (template + share * torch.randn(template.shape, generator=generator)).clamp(0, 1)


def calibrated(**options) -> Model:
    """A detector that has seen six OK pairs."""
    model, template = detector(**options), pictures()
    model.calibrate(Loader(batch(noisy(template, seed), template) for seed in range(6)))
    return model


@pytest.mark.parametrize("reach", [0, 1, 2, 5])
def test_feature_distance_as_a_loop(reach: int):
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 3, 4, 5)
    found = feature_distance(a, b, reach)
    steps = list(product(range(-reach, reach + 1), repeat=2))
    for y, x in product(range(4), range(5)):
        near = [(y + dy, x + dx) for dy, dx in steps if 0 <= y + dy < 4 and 0 <= x + dx < 5]
        there = max(F.cosine_similarity(a[0, :, y, x], b[0, :, v, u], dim=0) for v, u in near)
        back = max(F.cosine_similarity(b[0, :, y, x], a[0, :, v, u], dim=0) for v, u in near)
        assert found[0, 0, y, x] == pytest.approx(1 - float(min(there, back)), abs=1e-6)


@pytest.mark.parametrize("tolerance", [0, 1, 2, 3])
def test_pixel_difference_as_a_loop(tolerance: int):
    torch.manual_seed(1)
    a, b = torch.rand(2, 1, 3, 6, 7)
    found = pixel_difference(a, b, tolerance)
    for y, x in product(range(6), range(7)):
        rows, columns = (slice(max(0, n - tolerance), n + tolerance + 1) for n in (y, x))
        outside = torch.zeros(3)
        for one, other in ((a[0], b[0]), (b[0], a[0])):
            near = other[:, rows, columns].flatten(1)
            outside = torch.stack([outside, one[:, y, x] - near.amax(1), near.amin(1) - one[:, y, x]]).amax(0)
        assert found[0, 0, y, x] == pytest.approx(float(outside.mean()), abs=1e-6)


def test_an_edge_within_the_tolerance_costs_nothing_and_a_line_costs_all():
    template = torch.zeros(1, 3, 20, 20)
    template[..., 10:] = 1
    off = torch.zeros_like(template)
    off[..., 12:] = 1
    assert pixel_difference(off, template, 2).max() == 0 < pixel_difference(off, template, 1).max()
    line = template.clone()
    line[..., 5, :6] = 1
    for pair in ((line, template), (template, line)):  # too much, or lacking
        assert pixel_difference(*pair, 2).max() == 1


def test_shrinking_as_a_loop():
    seen = torch.rand((1, 1, 9, 9), generator=torch.Generator().manual_seed(0)) > 0.05
    padded = F.pad(seen, (2, 2, 2, 2), value=False)
    found = shrink(seen, 2)
    for y, x in product(range(9), range(9)):
        assert found[0, 0, y, x] == padded[0, 0, y : y + 5, x : x + 5].all()


def test_a_defect_stands_out_where_it_is_and_a_shift_does_not():
    model, template = calibrated(), pictures()
    shifted = noisy(template.roll((2, -1), (-2, -1)), 50)
    broken = noisy(template, 51)
    broken[:, :, 20:28, 30:38] = 1 - broken[:, :, 20:28, 30:38]
    calm, loud = model(shifted, template), model(broken, template)
    assert (loud.score > 3 * calm.score).all()
    assert calm.map.shape == (2, 1, *SIZE) and calm.map.min() >= 0
    for heatmap in loud.map[:, 0]:
        y, x = divmod(int(heatmap.argmax()), SIZE[1])
        assert 16 <= y < 32 and 26 <= x < 42


def test_what_templates_do_not_show_is_not_judged():
    method, image, template = detector().method, pictures(1), pictures(1, seed=3)
    seen = torch.zeros(1, 1, *SIZE, dtype=torch.bool)
    assert method.compare(image, template, seen).max() == 0 < method.compare(image, template, ~seen).max()


def test_the_scale_of_ok_pairs_is_their_mean_and_deviation():
    maps = torch.rand((40, 1, 6, 8), generator=torch.Generator().manual_seed(0)).double() + torch.arange(8) / 8
    (moments,) = moments_of([[maps]])
    one, own = NormalDifference("global", 1.0), NormalDifference("position", 1.0, shrinkage=0.0, smooth=0)
    for normal, mean, deviation in (
        (one, maps.mean(), maps.std(correction=0)), (own, maps.mean(0), maps.std(0, correction=0)),
    ):  # fmt: skip
        normal.fit(moments, (6, 8))
        expected = ((maps - mean) / deviation).clamp_min(0)
        assert torch.allclose(normal(maps.float()), expected.float(), atol=1e-4)
    assert torch.allclose(NormalDifference("none", 0.5)(maps.float()), 2 * maps.float())


def test_ok_images_that_equal_their_templates_leave_finite_maps():
    model, template = detector(), pictures()
    model.calibrate(Loader([batch(template, template)]))
    assert torch.isfinite(model(noisy(template, 9), template).map).all()


def test_each_view_has_its_own_scale_and_another_size_of_image_is_judged_too():
    model = calibrated(views=[{}, {"flip": "horizontal"}])
    plain, mirrored = (normal[-1].deviation for normal in model.method.normal)
    assert plain.shape == mirrored.shape and not torch.equal(plain, mirrored)
    assert torch.allclose(mirrored.flip(-1), plain, rtol=0.5)
    for size in (SIZE, (64, 80)):
        image, template = (F.interpolate(t, size=size) for t in (noisy(pictures(), 7), pictures()))
        assert model(image, template).map.shape == (2, 1, *size)


def test_pixels_alone_need_no_backbone():
    method = TemplateComparison(None, partial(NormalDifference, "none"), reach=None)  # type: ignore[arg-type]
    model = Model(method, TestTimeAugmentation(), GaussianBlur(0.0), MaxScore())
    model.calibrate(Loader())
    a, b = pictures(), pictures(seed=1)
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[3:-3, 3:-3] = True
    assert torch.allclose(model(a, b).map, 10 * pixel_difference(a, b, 2) * inside, atol=1e-6)
    assert not list(model.parameters())


def test_bad_calls_say_what_to_do():
    with pytest.raises(UserError, match=r"mode=template and data\.template=FILE"):
        detector()(pictures())
    with pytest.raises(UserError, match="nothing to compare"):
        detector(reach=None, tolerance=None)
    with pytest.raises(UserError, match="has 3 values for the backbone's 2 layers"):
        detector(reach=(1, 1, 1))
