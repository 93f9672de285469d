"""Samples -> batches."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from anomalib_lite.data import images as room
from anomalib_lite.data.decode import UnreadableImage, read_image, read_mask
from anomalib_lite.data.images import ImageSet, Shuffled, loader
from anomalib_lite.data.sample import NOK, OK, Batch, Sample
from anomalib_lite.errors import UserError
from tests.made import write_image, write_mask, write_pixels

SIZE = (32, 48)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """OK, NOK with mask, NOK without, unknown, OK; of several sizes."""
    paths = [write_image(tmp_path / f"{i}.png", i, (64 + 8 * (i == 3), 64), mark=True) for i in range(5)]
    samples = [Sample(path, label) for path, label in zip(paths, (OK, NOK, NOK, None, OK), strict=True)]
    samples[1] = replace(samples[1], mask=write_mask(tmp_path / "m.png"), weight=0.25)
    return samples


def batches_equal(first: Batch, second: Batch) -> bool:
    names = ("image", "mask", "has_mask", "label", "weight", "index")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def test_a_batch_holds_what_the_samples_say(samples: list[Sample]):
    batch = ImageSet(samples, SIZE)[[1, 0, 3, 2]]
    assert len(batch) == 4 and batch.template is None and batch.mask.dtype == torch.bool
    assert batch.image.shape == (4, 3, *SIZE) and batch.mask.shape == (4, 1, *SIZE)
    assert batch.label.tolist() == [NOK, OK, -1, NOK] and batch.index.tolist() == [1, 0, 3, 2]
    assert batch.weight.tolist() == [0.25, 1, 1, 1]
    assert batch.has_mask.tolist() == [True, True, False, False]  # an OK image is known to have no defect
    assert batch.mask.flatten(1).any(1).tolist() == [True, False, False, False]
    pixels = ImageSet(samples, (64, 64))[0].image
    np.testing.assert_array_equal(pixels[0], read_image(samples[0].image).transpose(2, 0, 1) / np.float32(255))
    assert pixels.is_contiguous(memory_format=torch.channels_last)


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
    with pytest.raises(UserError, match=r"^3 of 5 images \(test\) cannot be used") as caught:
        ImageSet(samples, SIZE, name="test")
    assert [str(s.image) in str(caught.value) for s in samples] == [False, True, False, True, True]
    fresh = ImageSet(samples, SIZE, ram_limit_mb=0)  # each is named when it is needed
    assert len(fresh[[0, 2]]) == 2
    with pytest.raises(UnreadableImage, match=samples[1].image.name):
        fresh[[0, 1]]


def test_masks_that_are_empty_inverted_or_of_another_size_are_said_or_refused(
    samples: list[Sample], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    def read(mask: np.ndarray, kept: float = 100) -> Batch:
        path = write_pixels(tmp_path / "odd.png", 255 * mask.astype(np.uint8))
        return ImageSet([Sample(samples[1].image, NOK, path)], SIZE, kept)[0]

    for kept in (0, 100):
        assert not read(np.zeros((64, 64)), kept).has_mask.any()
    assert "1 masks of NOK images are empty and count as absent" in caplog.text
    assert read(np.ones((64, 64))).mask.all()
    with pytest.raises(UserError, match=r"1 masks look inverted, among them .*odd\.png: draw defects in white"):
        read(~read_mask(samples[1].mask))
    with pytest.raises(UserError, match=r"odd\.png is 64 x 40 px, its image 1\.png is 64 x 64 px"):
        read(np.ones((40, 64)))


def test_a_saved_again_copy_among_the_tested_is_said_and_others_are_not(tmp_path: Path, caplog):
    paths = [write_image(tmp_path / f"{i}.png", i, (128, 128)) for i in range(17)]
    again = write_pixels(tmp_path / "again.jpg", cv2.imread(str(paths[7])))
    learned, tested, copied = (
        ImageSet([Sample(p, OK) for p in part], (128, 128)) for part in (paths[:12], paths[12:], [*paths[12:], again])
    )
    room.warn_near_copies(learned, tested)
    assert not caplog.text
    room.warn_near_copies(learned, copied)
    assert f"1 test images look like copies of training images, such as {again} of {paths[7]}" in caplog.text


def test_grey_images_among_coloured_ones_are_said(tmp_path: Path, caplog):
    coloured = [write_image(tmp_path / f"{i}.png", i, (64, 64)) for i in range(6)]
    grey = [write_pixels(tmp_path / f"grey{i}.jpg", cv2.imread(str(coloured[i]), 0)) for i in range(3)]
    first, second, third = (ImageSet([Sample(p, OK) for p in s], SIZE) for s in (coloured[:4], coloured[4:], grey))
    room.warn_grey_and_colour(first, second)
    room.warn_grey_and_colour(third, third)
    both = [Sample(p, OK, category=name) for name, paths in (("a", coloured), ("b", grey)) for p in paths]
    room.warn_grey_and_colour(ImageSet(both, SIZE), ImageSet(both[::4], SIZE))
    assert not caplog.text, "one product may be grey and another in colour"
    room.warn_grey_and_colour(first, third)
    assert "0 of 4 training images and 3 of 3 test images are grey, the others in colour" in caplog.text


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
    assert order(0, 3) == first and sorted(first) == [*range(5)]
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
    assert room.letterbox(shape, SIZE) == (slice(top, bottom), slice(left, right))
    image = write_image(tmp_path / "i.png", 0, shape)
    mask = write_pixels(tmp_path / "m.png", np.full(shape, 255, np.uint8))
    batch = ImageSet([Sample(image, NOK, mask, template=image)], SIZE, resize="letterbox")[0]
    assert batch.inside is not None and torch.equal(batch.mask, batch.inside)
    assert room.content(batch.inside[0]) == (slice(top, bottom), slice(left, right))
    assert batch.template is not None and torch.equal(batch.template, batch.image)  # all samples have one
    stretched = ImageSet([Sample(image, OK)], (bottom - top, right - left))[0]
    assert torch.equal(batch.image[..., top:bottom, left:right], stretched.image)
