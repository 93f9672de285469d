"""Folders that are either whole or absent: results that several runs share, named by what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalib_lite.runs.lock import alone


def artifact_key(*parts: Any) -> str:
    """Sixteen hex digits over JSON-ready parts; dictionaries count by content, not by order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def artifact(folder: Path, make: Callable[[Path], None], resumable: bool = False, replace: bool = False) -> bool:
    """Makes `folder` by `make`, which fills an empty folder, unless it is there; True where it was made.

    The folder appears when it is whole. Processes that need it at the same time wait for the one that makes it.
    resumable: `make` gets what a killed or failed one left, and goes on from it; else that is removed.
    replace: makes it anew although it is there; the old one stays until the new one is whole.
    """
    if folder.is_dir() and not replace:
        return False
    with alone(folder) as locked:
        if folder.is_dir() and not replace:
            return False
        # without a lock, somebody else may be at work in a folder of the same name
        part = folder.with_name(f".{folder.name}.part" + ("" if locked else f"-{secrets.token_hex(4)}"))
        kept = resumable and locked
        if part.exists() and (replace or not kept):
            shutil.rmtree(part)
        part.mkdir(exist_ok=True)
        try:
            make(part)
            if replace and folder.is_dir():
                shutil.rmtree(folder)
            _move(part, folder)
            kept = False
        finally:
            if not kept:
                shutil.rmtree(part, ignore_errors=True)
    return True


def _move(part: Path, folder: Path) -> None:
    """Where a process that could not lock was faster, its folder stays."""
    try:
        os.rename(part, folder)
    except OSError:
        if not folder.is_dir():
            raise
