"""Gaussians of residuals: known answers, saving, and the choice between groupings."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anomalib_lite.augment.tta import View
from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.data.sample import OK, UNNUMBERED, Batch, Sample
from anomalib_lite.detectors.model import Batches, Finish, Method
from anomalib_lite.detectors.residual import ResidualModel, SelectedResidualModel
from anomalib_lite.detectors.statistics import PositionGaussian, moments_of
from anomalib_lite.errors import UserError
from tests.detectors import small
from tests.made import write_pixels


def levels(count: int, seed: int = 0, shift: float = 0.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 8, 8), (4, 4, 4), (5, 2, 2)]
    return [torch.randn(count, *shape, generator=generator) + shift for shape in shapes]


def test_a_group_is_stacked_on_its_coarsest_grid_and_has_one_gaussian() -> None:
    """A batch of which all is held back changes nothing."""
    model, training, new = ResidualModel([[1, 2]], shrinkage=0.0, ridge=0.0), levels(60), levels(3, seed=1)
    model.fit([f[a:b] for f in training] for a, b in ((0, 0), (0, 25), (25, 25), (25, 60)))

    def stacked(features: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([features[1].unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5)), features[2]], 1)

    gaussian = PositionGaussian(0.0, 0.0)
    gaussian.fit(*moments_of([[stacked(training)]]))
    torch.testing.assert_close(model(new), gaussian(stacked(new)), rtol=1e-4, atol=0)


def test_groups_are_fused_at_the_finest_grid() -> None:
    model = ResidualModel([[0], [1], [2]])
    model.fit([levels(40)])
    near, far = model(levels(4, seed=2)), model(levels(4, seed=2, shift=8.0))
    assert near.shape == (4, 1, 8, 8)
    assert (near >= 0).all() and far.min() > near.max()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    grey = (120 + 6 * rng.standard_normal((20, 64, 64, 3))).clip(0, 255).astype(np.uint8)
    return ImageSet([Sample(write_pixels(folder / f"{k}.png", one), OK) for k, one in enumerate(grey)], (64, 64))


class Seeing:
    """Level 0 is the image, which shows every defect; level 1 is noise, which shows none."""

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self, batch: Batch, view: View) -> list[torch.Tensor]:
        self.drawn += int((batch.label == 1).sum())
        assert (batch.index == UNNUMBERED).all() or not (batch.label == 1).any()
        small = F.avg_pool2d(batch.image, 4)
        noise = torch.rand(small.shape, generator=torch.Generator().manual_seed(len(batch)))
        return [small, noise]


class Mirrored(Seeing):
    def __call__(self, batch: Batch, view: View) -> list[torch.Tensor]:
        return [view.apply(feature) for feature in super().__call__(batch, view)]


def candidates(choose: str = "auto") -> SelectedResidualModel:
    return SelectedResidualModel({"blind": ResidualModel([[1]]), "seeing": ResidualModel([[0]])}, choose, synthetic=24)


def chosen(images: ImageSet, residuals: Seeing, choose: str = "auto", flip: str = "none") -> SelectedResidualModel:
    model = candidates(choose)
    model.fit(loader(images, 8), residuals, small.model(Method()).finish, [View(flip)])
    return model


def test_the_model_that_finds_drawn_defects_is_kept_alone(images: ImageSet) -> None:
    model = chosen(images, residuals := Seeing())
    assert list(model.candidates) == ["seeing"] and residuals.drawn > 12
    assert model.trials["seeing"]["pixel_auroc"] > 0.8 > model.trials["blind"]["pixel_auroc"]
    fixed, loaded, probe = chosen(images, Seeing(), "seeing"), candidates(), [torch.rand(2, 3, 16, 16)] * 2
    assert torch.equal(model(probe), fixed(probe)), "the choice is fitted again on all images"
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(model(probe), loaded(probe))


def test_defects_are_looked_for_where_they_are_when_the_only_view_is_mirrored(images: ImageSet) -> None:
    assert chosen(images, Mirrored(), flip="both").trials["seeing"]["pixel_auroc"] > 0.8


def test_defects_are_drawn_and_looked_for_in_the_inspected_region(images: ImageSet) -> None:
    class Choosing(Method):
        def calibrate(self, batches: Batches, views: Sequence[View], finish: Finish) -> None:
            model.fit(batches, Seeing(), finish, views, self.region)

    whole, model = small.model(Choosing()), candidates()
    whole.region = torch.zeros(1, 1, *images.size, dtype=torch.bool)
    whole.region[..., :24] = True
    whole.calibrate(loader(images, 8))
    assert model.trials["seeing"]["pixel_auroc"] > 0.8 > model.trials["blind"]["pixel_auroc"]


def test_a_fixed_choice_tries_nothing(images: ImageSet) -> None:
    model = chosen(images, residuals := Seeing(), "blind")
    assert list(model.candidates) == ["blind"] and residuals.drawn == 0 and model.trials == {}
    with pytest.raises(UserError, match="auto or one of blind"):
        SelectedResidualModel({"blind": ResidualModel([[1]])}, choose="bland")


def test_a_model_that_has_not_chosen_yet_loads_too() -> None:
    """As a checkpoint in the middle of the training holds it."""
    again = candidates()
    again.load_state_dict(candidates().state_dict())
    assert list(again.candidates) == ["blind", "seeing"] and len(again.views) == 0


def test_fewer_layers_leave_the_other_groups(caplog: pytest.LogCaptureFixture) -> None:
    groups = {"levels": [[0], [1], [2]], "joint": [[1, 2]], "last": [[2]]}
    model = SelectedResidualModel({name: ResidualModel(own) for name, own in groups.items()})
    model.restrict_to(3)
    assert list(model.candidates) == ["levels", "joint", "last"] and not caplog.text
    model.restrict_to(2)
    assert {name: m.groups for name, m in model.candidates.items()} == {"levels": [[0], [1]], "joint": [[1]]}
    assert len(model.candidates["levels"].gaussians) == 2 and "backbone.layers has only 2" in caplog.text
    with pytest.raises(UserError, match="No group of"):
        SelectedResidualModel({"last": ResidualModel([[2]])}).restrict_to(1)
