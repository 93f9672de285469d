"""Nearest neighbours against numpy, near and far, and over the blocks' edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomalib_lite.detectors import neighbours
from anomalib_lite.detectors.neighbours import nearest, nearest_several

GENERATOR = torch.Generator().manual_seed(0)
BANK, QUERIES = (torch.randn(n, 12, generator=GENERATOR) + 5 for n in (90, 50))


def distances(queries: torch.Tensor, bank: torch.Tensor) -> np.ndarray:
    return np.linalg.norm(queries.double().numpy()[:, None] - bank.double().numpy(), axis=2)


@pytest.mark.parametrize("block", [1, 13, 1000])
def test_the_nearest_is_numpys(monkeypatch: pytest.MonkeyPatch, block: int):
    monkeypatch.setattr(neighbours, "QUERIES", block)
    monkeypatch.setattr(neighbours, "ROWS", block + 1)
    found, index = nearest(QUERIES, BANK)
    expected = distances(QUERIES, BANK)
    assert index.tolist() == expected.argmin(1).tolist()
    np.testing.assert_allclose(found, expected.min(1), rtol=1e-6)


def test_a_remembered_row_is_at_distance_zero_and_a_close_one_at_its_distance():
    """The product form alone would round both to some 1e-2 here."""
    bank = BANK + 1000
    assert nearest(bank[[7, 80]], bank)[0].tolist() == [0, 0]
    close = bank[[7]] + torch.tensor([2.0**-10] + [0.0] * 11)
    assert nearest(close, bank)[0].item() == pytest.approx(2**-10, rel=1e-6)


def test_several_come_nearest_first():
    found, index = nearest_several(QUERIES, BANK, 4)
    expected = distances(QUERIES, BANK)
    assert index.tolist() == expected.argsort(1)[:, :4].tolist()
    np.testing.assert_allclose(found, np.sort(expected, axis=1)[:, :4], rtol=1e-6)


def test_of_few_rows_all_are_several():
    assert nearest_several(QUERIES, BANK[:3], 9)[0].shape == (50, 3)
