"""Artifacts: folders of results that several runs share, named by a hash of their inputs, complete or absent."""

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
PATIENCE = 2.0  # s of waiting for a lock before a log message says so
FILES = ("penalty", "weights", "start_from", "roi", "ignore")  # settings that may name a file or a folder


def artifact_key(*parts: Any) -> str:
    """Returns a hash of JSON-ready values as 16 hex digits; the order of a dictionary's keys does not matter.

    Files and folders that the settings in `FILES` name are hashed by content, not by path: moving a file does not
    change the key, editing it does.
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
    """Hashes the contents of files, folders and glob patterns relative to `root`; unmatched patterns are returned."""
    hashes: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = Path(root or "").expanduser() / Path(str(pattern)).expanduser()
        matches = [str(path)] if path.exists() else glob.glob(str(path), recursive=True)
        hashes += [content_hash(match) for match in matches] or [str(pattern)]
    return sorted(hashes)


def content_hash(path: str | Path) -> str:
    """Returns the SHA-256 of a file, or a hash of the names and contents of all files in a folder."""
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return artifact_key([(str(file.relative_to(path)), content_hash(file)) for file in files])
    status = path.stat()
    return _file_hash(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _file_hash(path: Path, size: int, changed: int) -> str:
    """Hashes a file; `size` and `changed` (time in ns) invalidate the cache when the file is rewritten."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def artifact(folder: Path, make: Callable[[Path], None], resumable: bool = False, replace: bool = False) -> bool:
    """Creates `folder` unless it exists; returns whether it was created.

    `make` fills an empty folder, which appears as `folder` only when it is complete; other processes wait for it.
    With `resumable`, `make` gets the files of a killed or failed attempt, which are otherwise removed. With `replace`,
    the folder is created again, and the old one kept until the new one is complete.
    """
    if folder.is_dir() and not replace:
        return False
    with exclusive_lock(folder) as locked:
        if folder.is_dir() and not replace:
            return False
        # without a lock, another process may be filling a folder with the same name
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
            except OSError:  # another process without a lock was faster: its folder is kept
                if not folder.is_dir():
                    raise
            kept = False
        finally:
            if not kept:
                shutil.rmtree(part, ignore_errors=True)
    return True


@contextlib.contextmanager
def exclusive_lock(target: Path, inside: bool = False, wait: bool = True) -> Iterator[bool]:
    """Locks `target` against other processes during the block; a killed process releases its lock.

    Yields whether the lock is held: some file systems cannot lock, which is logged as a warning. The lock is the file
    `.<name>.lock` beside the target, or with `inside` the file `.lock` in it, which is removed afterwards.

    Raises:
        UserError: With `wait=False`, another process holds the lock.
    """
    path = target / ".lock" if inside else target.with_name(f".{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, locked = FileLock(path), True
    try:
        _acquire(lock, target, wait)
    except OSError as error:
        message = "%s cannot be locked (%s): a process that needs %s at the same time may create it again"
        log.warning(message, target.parent, error, target.name)
        locked = False
    try:
        yield locked
    finally:
        if locked:
            with contextlib.suppress(OSError):
                path.unlink()  # before the release: a waiting process then notices that its file is gone, and retries
                if inside:
                    target.rmdir()  # fails unless the folder is empty
            lock.release()


def _acquire(lock: FileLock, target: Path, wait: bool) -> None:
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        if not wait:
            message = f"Another process is using {target}: end it, or wait until it ends, or choose another folder."
            raise UserError(message) from None
        log.info("waiting for another process that is creating %s", target)
        lock.acquire(timeout=-1, poll_interval=0.2)
