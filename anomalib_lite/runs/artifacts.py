"""Results that several runs share, named by the hash of what they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalib_lite.runs.whole_folder import whole_folder


def artifact_key(*parts: Any) -> str:
    """Sixteen hex digits over JSON-ready parts; dictionaries count by content, not by order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def artifact(folder: Path, make: Callable[[Path], None]) -> bool:
    """Makes `folder` by `make`, which fills an empty folder, unless it is there; True where it was made.

    The folder appears when it is whole. Two processes that make it at the same time do so twice, and either result
    serves: what makes them equal is the name.
    """
    if folder.is_dir():
        return False
    with whole_folder(folder) as unfinished:
        make(unfinished)
    return True
