"""Fitted tensors whose shapes, and fitted modules whose number, are known only after fitting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Fitted(nn.Module):
    """A module whose buffers start empty and take whatever shape a state dict brings."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            if prefix + name in state_dict:
                saved = state_dict[prefix + name]
                setattr(self, name, torch.empty(saved.shape, dtype=saved.dtype, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


class PerView(nn.ModuleList):
    """One fitted module for each view, since a mirrored product is another: one at first, or as many as were saved."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__([make()])
        self.make = make

    def reset(self, count: int) -> None:
        """`count` modules that nothing was fitted to."""
        self._modules.clear()
        self.extend(self.make() for _ in range(count))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = {key.removeprefix(prefix).split(".")[0] for key in state_dict if key.startswith(prefix)}
        if saved and len(saved) != len(self):
            self.reset(len(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)
