"""Fitted tensors whose shapes are known only after fitting."""

from __future__ import annotations

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
