"""Samples -> batches."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from anomalib_lite.data import images as room
from anomalib_lite.data.decode import UnreadableImage, read_image, read_mask
from anomalib_lite.data.images import (
    ImageSet,
    Shuffled,
    content,
    letterbox,
    loader,
    warn_grey_and_colour,
    warn_near_copies,
)
from anomalib_lite.data.sample import NOK, OK, Batch, Sample
from anomalib_lite.errors import UserError
from tests.made import write_image, write_mask, write_pixels

SIZE = (32, 48)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """OK, NOK with mask, NOK without, unknown; of several sizes."""
    mask = write_mask(tmp_path / "m.png")
    paths = [write_image(tmp_path / f"{i}.png", i, (64 + 8 * (i % 2), 64), mark=True) for i in range(5)]
    return [
        Sample(paths[0], OK),
        Sample(paths[2], NOK, mask, defect="dot", weight=0.25),
        Sample(paths[1], NOK),
        Sample(paths[3], None),
        Sample(paths[4], OK, weight=2.0),
    ]


def batches_equal(first: Batch, second: Batch) -> bool:
    names = ("image", "mask", "has_mask", "label", "weight", "index")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def test_a_batch_holds_what_the_samples_say(samples: list[Sample]):
    batch = ImageSet(samples, SIZE)[[1, 0, 3, 2]]
    assert len(batch) == 4 and batch.template is None
    assert batch.image.shape == (4, 3, *SIZE) and batch.image.dtype == torch.float32
    assert batch.mask.shape == (4, 1, *SIZE) and batch.mask.dtype == torch.bool
    assert batch.label.tolist() == [NOK, OK, -1, NOK] and batch.index.tolist() == [1, 0, 3, 2]
    assert batch.weight.tolist() == [0.25, 1, 1, 1]
    assert batch.has_mask.tolist() == [True, True, False, False]  # an OK image is known to have no defect
    assert batch.mask.flatten(1).any(1).tolist() == [True, False, False, False]


def test_pixels_arrive_unchanged_in_their_unit_and_order(samples: list[Sample]):
    batch = ImageSet(samples, (64, 64))[0]
    expected = read_image(samples[0].image).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(batch.image[0].numpy(), expected)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)


def test_kept_spooled_and_newly_decoded_pixels_are_the_same_and_kept_ones_stay_as_they_are(samples: list[Sample]):
    kept, spooled = ImageSet(samples, SIZE), ImageSet(samples, SIZE, ram_limit_mb=0, spool=True)
    batch = kept[[0, 1]]
    batch.image.zero_()
    batch.mask.fill_(True)
    for indices in ([0, 1, 2, 3, 4], [3, 1], [2]):
        fresh = ImageSet(samples, SIZE, ram_limit_mb=0)[indices]
        assert batches_equal(kept[indices], fresh) and batches_equal(spooled[indices], fresh)
    for sample in samples:
        sample.image.unlink()  # both decode once
    assert batches_equal(kept.part(slice(2))[0], spooled.part(slice(2))[0])


def test_all_broken_images_are_named_at_once_where_pixels_are_kept(samples: list[Sample]):
    for k in (1, 3):
        samples[k].image.write_bytes(b"broken")
    samples[4].image.unlink()
    with pytest.raises(UserError) as caught:
        ImageSet(samples, SIZE, name="test")
    message = str(caught.value)
    assert message.startswith("3 of 5 images (test) cannot be used")
    assert all(str(samples[k].image) in message for k in (1, 3, 4))
    assert str(samples[0].image) not in message
    fresh = ImageSet(samples, SIZE, ram_limit_mb=0)  # each is named when it is needed
    assert len(fresh[[0, 2]]) == 2
    with pytest.raises(UnreadableImage, match=samples[1].image.name):
        fresh[[0, 1]]


def test_a_mask_of_another_size_than_its_image_is_named(samples: list[Sample], tmp_path: Path):
    wrong = Sample(samples[1].image, NOK, write_mask(tmp_path / "small.png", (40, 64)))
    with pytest.raises(UserError, match=r"small\.png is 64 x 40 px, its image 2\.png is 64 x 64 px"):
        ImageSet([wrong], SIZE)


def test_a_mask_that_marks_nothing_counts_as_absent_and_one_that_marks_the_ground_is_refused(
    samples: list[Sample], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    empty = write_pixels(tmp_path / "empty.png", np.zeros((64, 64), np.uint8))
    for kept in (0, 100):
        assert not ImageSet([Sample(samples[1].image, NOK, empty)], SIZE, kept)[0].has_mask.any()
    assert "1 masks of NOK images are empty and count as absent" in caplog.text
    inverted = write_pixels(tmp_path / "inverted.png", 255 * (~read_mask(samples[1].mask)).astype(np.uint8))
    with pytest.raises(UserError, match=r"1 masks look inverted, among them .*inverted\.png"):
        ImageSet([Sample(samples[1].image, NOK, inverted)], SIZE)
    whole = write_pixels(tmp_path / "whole.png", np.full((64, 64), 255, np.uint8))
    assert ImageSet([Sample(samples[1].image, NOK, whole)], SIZE)[0].mask.all()


def test_a_saved_again_copy_among_the_tested_is_said_and_others_are_not(tmp_path: Path, caplog):
    learned = [write_image(tmp_path / f"{i}.png", i, (128, 128)) for i in range(12)]
    tested = [write_image(tmp_path / f"t{i}.png", 50 + i, (128, 128)) for i in range(5)]
    sets = [ImageSet([Sample(p, OK) for p in paths], (128, 128)) for paths in (learned, tested)]
    warn_near_copies(*sets)
    assert not caplog.text
    again = write_pixels(tmp_path / "again.jpg", cv2.imread(str(learned[7])))
    warn_near_copies(sets[0], ImageSet([Sample(p, OK) for p in [*tested, again]], (128, 128)))
    assert f"1 test images look like copies of training images, such as {again} of {learned[7]}" in caplog.text


def test_grey_images_among_coloured_ones_are_said(tmp_path: Path, caplog):
    coloured = [write_image(tmp_path / f"{i}.png", i, (64, 64)) for i in range(6)]
    grey = [write_pixels(tmp_path / f"grey{i}.jpg", cv2.imread(str(coloured[i]), 0)) for i in range(3)]
    first, second, third = (ImageSet([Sample(p, OK) for p in s], SIZE) for s in (coloured[:4], coloured[4:], grey))
    warn_grey_and_colour(first, second)
    warn_grey_and_colour(third, third)
    both = [Sample(p, OK, category=name) for name, paths in (("a", coloured), ("b", grey)) for p in paths]
    warn_grey_and_colour(ImageSet(both, SIZE), ImageSet(both[::4], SIZE))
    assert not caplog.text, "one product may be grey and another in colour"
    warn_grey_and_colour(first, third)
    assert "0 of 4 training images and 3 of 3 test images are grey, the others in colour" in caplog.text


def test_templates_come_along_where_all_have_one(samples: list[Sample], tmp_path: Path):
    golden = write_image(tmp_path / "golden.png", 77, (50, 50))
    with_one = [Sample(s.image, s.label, template=golden) for s in samples]
    batch = ImageSet(with_one, SIZE)[[0, 1]]
    assert batch.template.shape == (2, 3, *SIZE) and torch.equal(batch.template[0], batch.template[1])


def test_the_loader_goes_through_all_in_order(samples: list[Sample]):
    assert [batch.index.tolist() for batch in loader(ImageSet(samples, SIZE), 2)] == [[0, 1], [2, 3], [4]]
    assert list(loader(ImageSet([], SIZE), 4)) == []


def test_the_order_is_a_permutation_that_seed_and_epoch_alone_decide(samples: list[Sample]):
    def order(seed: int, epoch: int) -> list[int]:
        batches = loader(ImageSet(samples, SIZE), len(samples), shuffle_seed=seed)
        batches.sampler.set_epoch(epoch)  # as Lightning does
        return next(iter(batches)).index.tolist()

    first = order(0, 3)
    np.random.seed(2)
    torch.manual_seed(2)
    assert order(0, 3) == first and sorted(first) == list(range(len(samples)))
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


@pytest.mark.parametrize(
    ("length", "sizes"), [(8, [4, 4]), (9, [4, 4]), (10, [4, 4, 2]), (11, [4, 4, 3]), (1, [1]), (2, [2]), (3, [3])]
)
def test_every_image_of_a_batch_is_in_one_share(length: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch):
    """The shares of a batch make up the batch that one process would have."""
    shares = Shuffled(length, 4, seed=3)
    alone = list(shares)
    assert [len(batch) for batch in alone] == sizes, "one image left over has nothing to be normalised with"
    if length == 1:
        return
    parts = []
    for rank in range(2):
        monkeypatch.setattr(room, "_processes", lambda rank=rank: (rank, 2))
        assert len(shares) == len(alone)
        parts.append(list(shares))
    for whole, first, second in zip(alone, *parts, strict=True):
        assert sorted(first + second) == sorted(whole) and first and second


@pytest.mark.parametrize("limit", [100, 0])
def test_images_of_another_size_are_refused_where_none_is_resized(samples: list[Sample], limit: int):
    with pytest.raises(UserError, match=r"3\.png is 64 x 72 px, and resize=none wants 64 x 64 px"):
        ImageSet(samples, (64, 64), limit, resize="none")[[0, 3]]


@pytest.mark.parametrize(
    ("shape", "box"),
    [((64, 64), (0, 32, 8, 40)), ((30, 90), (8, 24, 0, 48)), ((64, 96), (0, 32, 0, 48)), ((1000, 1), (0, 32, 23, 24))],
)
def test_a_letterbox_keeps_the_aspect_and_the_mask_where_the_picture_is(
    tmp_path: Path, shape: tuple[int, int], box: tuple[int, int, int, int]
):
    top, bottom, left, right = box
    assert letterbox(shape, SIZE) == (slice(top, bottom), slice(left, right))
    image = write_image(tmp_path / "i.png", 0, shape)
    mask = write_pixels(tmp_path / "m.png", np.full(shape, 255, np.uint8))
    batch = ImageSet([Sample(image, NOK, mask, template=image)], SIZE, resize="letterbox")[0]
    assert batch.inside is not None and torch.equal(batch.mask, batch.inside)
    assert content(batch.inside[0]) == (slice(top, bottom), slice(left, right))
    assert batch.template is not None and torch.equal(batch.template, batch.image)
    stretched = ImageSet([Sample(image, OK)], (bottom - top, right - left))[0]
    assert torch.equal(batch.image[..., top:bottom, left:right], stretched.image)
