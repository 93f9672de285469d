"""Augmented batches: one geometry for image, mask and template, colour for the image alone, all from the seed."""

from __future__ import annotations

import pytest
import torch

from anomalib_lite.augment.transforms import Augment
from anomalib_lite.data.sample import UNNUMBERED, Batch
from anomalib_lite.errors import UserError

FLIPS = {"horizontal": 0.5, "vertical": 0.5}
MOVES = {"rotation": 20.0, "shift": 0.1}
LIGHT = {"jitter": 1.0, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}


@pytest.fixture
def batch() -> Batch:
    """A bright square on each image; the mask is the square, the template the image."""
    mask = torch.zeros(8, 1, 48, 64, dtype=torch.bool)
    for k in range(8):
        mask[k, :, 5 + k : 17 + k, 8 + 4 * k : 24 + 4 * k] = True
    image = 0.2 + 0.6 * mask.float().expand(-1, 3, -1, -1)
    image = image * torch.tensor([1.0, 0.8, 0.5]).view(1, 3, 1, 1)
    ones = torch.ones(8)
    return Batch(image, mask, ones.bool(), ones.long() * 0, ones.clone(), torch.arange(8), template=image.clone())


@pytest.mark.parametrize("settings", [FLIPS, MOVES, FLIPS | MOVES | LIGHT])
def test_image_mask_and_template_move_together(batch: Batch, settings: dict[str, float]) -> None:
    moved = Augment(**settings)(batch, 0)
    assert (moved.image != batch.image).flatten(1).any(1).sum() >= 4
    inside = moved.template[:, :1] > 0.5
    agreement = (inside == moved.mask).float().mean()
    assert agreement > 0.985, agreement  # at borders, bilinear and thresholded differ by a pixel
    assert moved.mask.any(dim=(1, 2, 3)).all()


def test_colour_leaves_mask_and_template_alone(batch: Batch) -> None:
    moved = Augment(**LIGHT)(batch, 0)
    assert torch.equal(moved.mask, batch.mask) and torch.equal(moved.template, batch.template)
    assert (moved.image != batch.image).flatten(1).any(1).all()
    assert moved.image.min() >= 0 and moved.image.max() <= 1


def test_the_seed_and_the_step_decide(batch: Batch) -> None:
    first = Augment(**FLIPS, **LIGHT, seed=1)(batch, 5)
    torch.manual_seed(99)
    again = Augment(**FLIPS, **LIGHT, seed=1)(batch, 5)
    assert torch.equal(first.image, again.image)
    for other in (Augment(**FLIPS, **LIGHT, seed=1)(batch, 6), Augment(**FLIPS, **LIGHT, seed=2)(batch, 5)):
        assert not torch.equal(first.image, other.image)


def test_the_surrounding_randomness_goes_on_undisturbed(batch: Batch) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    Augment(**FLIPS, **LIGHT)(batch, 0)
    assert torch.equal(torch.rand(4), expected)


def test_changed_images_lose_their_number_and_take_their_weight(batch: Batch) -> None:
    moved = Augment(horizontal=0.5, weight=0.25)(batch, 0)
    changed = (moved.image != batch.image).flatten(1).any(1)
    assert 0 < changed.sum() < 8
    assert (moved.index[changed] == UNNUMBERED).all() and torch.equal(moved.index[~changed], batch.index[~changed])
    assert (moved.weight[changed] == 0.25).all() and (moved.weight[~changed] == 1).all()
    assert (batch.weight == 1).all() and torch.equal(batch.index, torch.arange(8)), "the given batch stays as it is"


def test_how_often_an_image_is_flipped() -> None:
    image = torch.rand(500, 3, 4, 4)
    flags = torch.ones(500)
    many = Batch(image, image[:, :1] > 2, flags.bool(), flags.long(), flags, torch.arange(500))
    moved = Augment(horizontal=0.3)(many, 0)
    share = (moved.index == UNNUMBERED).float().mean().item()
    assert 0.2 < share < 0.4
    flipped = moved.index == UNNUMBERED
    assert torch.equal(moved.image[flipped], image[flipped].flip(-1))


def test_turning_reaches_no_further_than_asked_and_fills_the_border(batch: Batch) -> None:
    bright = Batch(
        torch.ones_like(batch.image), *(getattr(batch, k) for k in ("mask", "has_mask", "label", "weight")), batch.index
    )
    assert Augment(rotation=30)(bright, 0).image.min() > 0.99
    assert Augment(rotation=30, padding="zeros")(bright, 0).image.min() == 0


def test_none_is_inactive_and_wrong_settings_are_refused() -> None:
    assert not Augment().active and not Augment(brightness=0.5).active and Augment(vertical=0.1).active
    with pytest.raises(UserError, match="reflection"):
        Augment(padding="mirror")
    with pytest.raises(UserError, match="negative"):
        Augment(weight=-1)
