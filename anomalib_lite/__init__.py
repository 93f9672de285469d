"""anomalib_lite: find out which anomaly detector works for a product, prove it, and inspect with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["command", "load", "predict", "train"]

if TYPE_CHECKING:
    from anomalib_lite.api import command, load, predict, train


def __getattr__(name: str) -> Any:
    """Imports the functions of `api` on first access, because their libraries take seconds to import."""
    if name not in __all__:
        raise AttributeError(f"anomalib_lite has no {name}")
    from anomalib_lite import api

    return getattr(api, name)
