"""Folders that are either whole or absent: results that several runs share, named by what they were made from."""

import contextlib
import functools
import glob
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)
PATIENCE = 2.0  # seconds of waiting in silence

FILES = ("penalty", "weights", "start_from", "roi", "ignore")  # settings that may name a file or a folder


def artifact_key(*parts: Any) -> str:
    """Sixteen hex digits over JSON-ready parts; dictionaries count by content, not by order.

    Files and folders that settings called as in `FILES` name stand for what lies there, not for where it lies: a moved
    file is the same one, and a changed one another.
    """
    return hashlib.sha256(json.dumps(_by_content(parts), sort_keys=True).encode()).hexdigest()[:16]


def _by_content(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _by_content(inner, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_by_content(inner) for inner in value]
    may_be_path = name in FILES and isinstance(value, str) and (os.sep in value or "." in value)
    return content_hash(value) if may_be_path and Path(value).expanduser().exists() else value


def named_content(patterns: str | Iterable[str], root: str | Path | None = None) -> list[str]:
    """Hashes of what files, folders and glob patterns relative to `root` name; a pattern that names nothing stays."""
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = Path(root or "").expanduser() / Path(str(pattern)).expanduser()
        places = [str(path)] if path.exists() else glob.glob(str(path), recursive=True)
        found += [content_hash(place) for place in places] or [str(pattern)]
    return sorted(found)


def content_hash(path: str | Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of all files in a folder."""
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return artifact_key([(str(file.relative_to(path)), content_hash(file)) for file in files])
    status = path.stat()
    return _file_hash(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _file_hash(path: Path, size: int, changed: int) -> str:
    """size, changed: of the file, so that one which was written anew is read anew."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
            try:
                os.rename(part, folder)
            except OSError:  # where a process that could not lock was faster, its folder stays
                if not folder.is_dir():
                    raise
            kept = False
        finally:
            if not kept:
                shutil.rmtree(part, ignore_errors=True)
    return True


@contextlib.contextmanager
def alone(target: Path, inside: bool = False, wait: bool = True) -> Iterator[bool]:
    """No two processes are in such a block for the same `target` at once; a killed one lets the next one in.

    Yields whether that is so: on a file system that cannot lock, a warning says that it is not. The lock is the file
    `.<name>.lock` beside the target, or `.lock` inside it, which is there as long as it is needed.
    Errors: UserError where another process is in one, and this one is not to wait.
    """
    path = target / ".lock" if inside else target.with_name(f".{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    locked = _acquire(lock, target, wait)
    try:
        yield locked
    finally:
        if locked:
            with contextlib.suppress(OSError):
                path.unlink()  # before the release: who waits for this very file sees that it is gone, and asks anew
                if inside:
                    target.rmdir()  # where nothing came of it
            lock.release()


def _acquire(lock: FileLock, target: Path, wait: bool) -> bool:
    try:
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            if not wait:
                raise UserError(
                    f"Another process is at work in {target}: let it end, or take another folder."
                ) from None
            log.info("waiting for another process that is making %s", target)
            lock.acquire(timeout=-1, poll_interval=0.2)
    except OSError as error:
        log.warning(
            "%s cannot be locked (%s): a process that needs %s at the same time may make it once more",
            target.parent, error, target.name,
        )  # fmt: skip
        return False
    return True
