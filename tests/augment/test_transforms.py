"""Augmented batches: one geometry for image, mask and template, colour for the image alone, all from the seed."""

import kornia.augmentation as K
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from anomalib_lite.augment.transforms import Augment
from anomalib_lite.data.sample import UNNUMBERED, Batch
from anomalib_lite.errors import UserError
from anomalib_lite.settings import conf_dir

FLIPS = [K.RandomHorizontalFlip(p=0.5), K.RandomVerticalFlip(p=0.5)]
MOVES = [K.RandomAffine(20.0, (0.1, 0.1), padding_mode="reflection", p=1.0)]
LIGHT = [K.ColorJitter(0.3, 0.3, 0.3, 0.1, p=1.0)]


@pytest.fixture
def batch() -> Batch:
    """A bright square on each image; the mask is the square, the template the image."""
    mask = torch.zeros(8, 1, 48, 64, dtype=torch.bool)
    for k in range(8):
        mask[k, :, 5 + k : 17 + k, 8 + 4 * k : 24 + 4 * k] = True
    image, ones = (0.2 + 0.6 * mask.float()) * torch.tensor([1.0, 0.8, 0.5]).view(1, 3, 1, 1), torch.ones(8)
    return Batch(image, mask, ones.bool(), ones.long() * 0, ones.clone(), torch.arange(8), template=image.clone())


def changed(before: Batch, after: Batch) -> Tensor:
    return (after.image != before.image).flatten(1).any(1)


@pytest.mark.parametrize("transforms", [FLIPS, MOVES, [K.RandomPerspective(p=1.0)], [*LIGHT, *FLIPS, *MOVES]])
def test_image_mask_and_template_move_together(batch: Batch, transforms: list) -> None:
    moved = Augment(transforms)(batch, 0)
    assert changed(batch, moved).sum() >= 4
    agreement = ((moved.template[:, :1] > 0.5) == moved.mask).float().mean()
    assert agreement > 0.985, agreement  # at borders, bilinear and thresholded differ by a pixel
    assert moved.mask.any(dim=(1, 2, 3)).all()


@pytest.mark.parametrize("transform", [*LIGHT, K.RandomGaussianNoise(std=0.5, p=1.0), K.RandomErasing(p=1.0)])
def test_what_changes_the_image_leaves_mask_and_template_alone(batch: Batch, transform: K.ColorJitter) -> None:
    moved = Augment([transform])(batch, 0)
    assert torch.equal(moved.mask, batch.mask) and torch.equal(moved.template, batch.template)
    assert changed(batch, moved).all()
    assert moved.image.min() >= 0 and moved.image.max() <= 1


def test_the_seed_and_the_step_decide_and_the_surrounding_randomness_goes_on(batch: Batch) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    draws = ((1, 5), (1, 5), (1, 6), (2, 5))
    first, again, later, other = (Augment([*FLIPS, *LIGHT], seed=seed)(batch, step).image for seed, step in draws)
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, later) and not torch.equal(first, other)


def test_changed_images_lose_their_number_and_take_their_weight(batch: Batch) -> None:
    moved = Augment(FLIPS[:1], weight=0.25)(batch, 0)
    touched = changed(batch, moved)
    assert 0 < touched.sum() < 8
    assert (moved.index[touched] == UNNUMBERED).all() and torch.equal(moved.index[~touched], batch.index[~touched])
    assert (moved.weight[touched] == 0.25).all() and (moved.weight[~touched] == 1).all()
    assert (batch.weight == 1).all() and torch.equal(batch.index, torch.arange(8)), "the given batch stays as it is"


def test_a_generator_restyles_before_the_transforms(batch: Batch) -> None:
    def white(image: Tensor, share: float) -> Tensor:
        return torch.where(torch.arange(len(image)).view(-1, 1, 1, 1) < share * len(image), 1.0, image)

    moved = Augment([K.RandomHorizontalFlip(p=1.0)], restyle=0.5, restyler=white)(batch, 0)
    assert (moved.image[:4] == 1).all() and torch.equal(moved.image[4:], batch.image[4:].flip(-1))
    assert torch.equal(moved.template, batch.template.flip(-1))


@pytest.mark.parametrize("choice", ["none", "flips", "color_jitter", "flips_color", "moved", "histaugan"])
def test_every_choice_is_such_a_list_and_takes_further_ones(batch: Batch, choice: str) -> None:
    noise = "augment.transforms=[{_target_:kornia.augmentation.RandomGaussianNoise,std:0.1,p:1.0}]"
    with initialize_config_dir(str(conf_dir()), version_base=None):
        augment = instantiate(compose("train", [f"augment={choice}"]).augment)
        if choice == "flips":
            noisy = instantiate(compose("train", [f"augment={choice}", noise, "augment.weight=0.5"]).augment)(batch, 0)
            assert changed(batch, noisy).all() and (noisy.weight == 0.5).all()
    assert augment.active == (choice != "none")
    assert not augment.transforms or changed(batch, augment(batch, 0)).any()


def test_wrong_settings_are_refused(batch: Batch) -> None:
    for transform in (torch.nn.Identity(), K.RandomMixUpV2()):
        with pytest.raises(UserError, match=f"not {type(transform).__name__}"):
            Augment([transform])
    with pytest.raises(UserError, match="another size"):
        Augment([K.CenterCrop((24, 24))])(batch, 0)
