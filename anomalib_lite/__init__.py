"""anomalib_lite: find out which anomaly detector works for a product, prove it, and inspect with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["command", "load", "predict", "train"]

if TYPE_CHECKING:
    from anomalib_lite.api import command, load, predict, train


def __getattr__(name: str) -> Any:
    """The functions of `api`, whose libraries take seconds to import, once they are asked for."""
    if name not in __all__:
        raise AttributeError(f"anomalib_lite has no {name}")
    from anomalib_lite import api

    return getattr(api, name)
