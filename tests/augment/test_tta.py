"""Views: their inverses are exact, colours change as stated, and the maps are averaged where they belong."""

import pytest
import torch
from torchvision.transforms import functional as T

from anomalib_lite.augment.tta import FLIPS, TestTimeAugmentation, View
from anomalib_lite.detectors.model import Method, Model
from anomalib_lite.errors import UserError
from anomalib_lite.scoring import GaussianBlur, MaxScore


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 7, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("flip", FLIPS)
def test_undoing_a_flip_gives_the_same_bits(image: torch.Tensor, flip: str) -> None:
    view, heatmap = View(flip), image[:, :1]
    assert torch.equal(view.undo(view.apply(heatmap)), heatmap)
    assert view.identity == (flip == "none")
    if flip in ("horizontal", "vertical"):  # left and right change places, or top and bottom
        assert torch.equal(view.apply(image), T.hflip(image) if flip == "horizontal" else T.vflip(image))
    assert torch.equal(view.apply(heatmap), heatmap) == (flip == "none")


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.3])
def test_brightness_and_saturation_are_torchvisions(image: torch.Tensor, factor: float) -> None:
    torch.testing.assert_close(View(brightness=factor).apply(image), T.adjust_brightness(image, factor))
    expected = T.adjust_saturation(image, factor)  # its grey has rounded coefficients
    torch.testing.assert_close(View(saturation=factor).apply(image), expected, atol=2e-3, rtol=0)


def test_contrast_keeps_the_mean_and_scales_the_spread() -> None:
    image = 0.4 + 0.1 * torch.rand(1, 3, 8, 8)
    seen = View(contrast=1.5).apply(image)
    assert seen.mean().item() == pytest.approx(image.mean().item(), abs=1e-6)
    assert seen.std().item() == pytest.approx(1.5 * image.std().item(), rel=1e-4)


class Reddest(Method):
    """The map is the red channel, so that a view's map is the view's red; counts its views."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def anomaly_map(self, image: torch.Tensor, template: torch.Tensor | None = None, view: int = 0) -> torch.Tensor:
        self.seen.append(view)
        return image[:, :1] if template is None else (image - template).abs().mean(1, keepdim=True)


def reddest(*views: dict, reduce: str = "mean") -> Model:
    return Model(Reddest(), TestTimeAugmentation(views or [{}], reduce), GaussianBlur(0.0), MaxScore())


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_flipped_maps_and_templates_come_back_to_their_places(image: torch.Tensor, reduce: str) -> None:
    detector = reddest({}, {"flip": "horizontal"}, {"flip": "vertical"}, {"flip": "both"}, reduce=reduce)
    torch.testing.assert_close(detector(image).map, reddest()(image).map)
    assert detector.method.seen == [0, 1, 2, 3]
    torch.testing.assert_close(detector(image, image.flip(0)).map, reddest()(image, image.flip(0)).map)


def test_mean_and_max_over_the_views(image: torch.Tensor) -> None:
    for reduce, factor in (("mean", 0.75), ("max", 1)):
        made = reddest({}, {"brightness": 0.5}, reduce=reduce)(image).map
        torch.testing.assert_close(made, image[:, :1] * factor)


def test_wrong_views_are_refused() -> None:
    with pytest.raises(UserError, match="horizontal"):
        View("sideways")
    with pytest.raises(UserError, match="empty"):
        TestTimeAugmentation([])
    with pytest.raises(UserError, match="no 'mirror'; it has flip, brightness"):
        TestTimeAugmentation([{"mirror": "both"}])
    with pytest.raises(UserError, match="0 or more"):
        View(brightness=-1)
    with pytest.raises(UserError, match="mean, max"):
        TestTimeAugmentation([{}], "median")
