"""Fitted buffers take the shape that a state dict brings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anomalib_lite.detectors.buffers import Fitted


class Bank(Fitted):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.empty(0))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def filled(*shape: int) -> Bank:
    bank = Bank()
    bank.rows, bank.count = torch.rand(*shape), torch.tensor(7)
    return bank


@pytest.mark.parametrize("shape", [(3, 4), (5,), (0,)])
def test_any_shape_comes_back(shape: tuple[int, ...]):
    saved, fresh = filled(*shape), Bank()
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(fresh.rows, saved.rows) and fresh.count == 7


def test_it_works_inside_other_modules_and_over_earlier_values():
    saved = nn.Sequential(nn.Linear(2, 2), filled(3, 4))
    fresh = nn.Sequential(nn.Linear(2, 2), filled(9))
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(fresh[1].rows, saved[1].rows) and torch.equal(fresh[0].weight, saved[0].weight)


def test_the_type_of_numbers_comes_back_too():
    saved = filled(2, 2)
    saved.rows = saved.rows.half()
    fresh = Bank()
    fresh.load_state_dict(saved.state_dict())
    assert fresh.rows.dtype == torch.float16


def test_what_is_loaded_is_a_copy():
    state = filled(2, 2).state_dict()
    fresh = Bank()
    fresh.load_state_dict(state)
    state["rows"].zero_()
    assert fresh.rows.any()


def test_an_absent_buffer_is_still_an_error():
    with pytest.raises(RuntimeError, match=r"Missing key.*rows"):
        Bank().load_state_dict({"count": torch.tensor(1)})
