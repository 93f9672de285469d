"""Patches gathered within a limit: how many, of which images, and that they are the images' own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from anomalib_lite.augment.tta import View
from anomalib_lite.detectors.candidates import gather_candidates

IMAGES, POSITIONS, CHANNELS = 10, 12, 5


class Numbered(list):
    """Batches of images whose features say which image and position they are of."""

    dataset = range(IMAGES)


def batches() -> Numbered:
    images = torch.arange(IMAGES).view(-1, 1, 1, 1).expand(-1, CHANNELS, 3, 4) * 100.0
    images = images + torch.arange(POSITIONS).view(3, 4)
    return Numbered(SimpleNamespace(image=part) for part in images.split(4))


def gather(limit_mb: float, views: tuple[View, ...] = (View(),), seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return gather_candidates(batches(), lambda image: image, views, limit_mb, generator)


def megabytes(rows: int) -> float:
    return rows * CHANNELS * 4 / 2**20


def test_all_are_taken_where_they_fit():
    rows = gather(megabytes(IMAGES * POSITIONS))
    assert sorted(rows[:, 0].tolist()) == [100 * i + p for i in range(IMAGES) for p in range(POSITIONS)]
    assert (rows == rows[:, :1]).all(), "a row is one position's channels"


@pytest.mark.parametrize("limit", [IMAGES * POSITIONS - 1, 55, 10])
def test_of_each_image_as_many_are_drawn_as_fit(limit: int):
    rows = gather(megabytes(limit))[:, 0].long()
    assert len(rows) <= limit and len(rows.unique()) == len(rows)
    assert (rows // 100).bincount().tolist() == [limit // IMAGES] * IMAGES


def test_one_of_each_image_is_kept_however_small_the_limit():
    assert len(gather(0)) == IMAGES


def test_views_share_the_limit():
    rows = gather(megabytes(60), (View(), View("horizontal")))
    assert len(rows) == 60


def test_draws_follow_the_generator():
    assert torch.equal(gather(megabytes(50)), gather(megabytes(50)))
    assert not torch.equal(gather(megabytes(50)), gather(megabytes(50), seed=1))
