"""Results that several runs share, named by the hash of what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


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
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        make(unfinished)
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True
