"""One process at a time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
PATIENCE = 2.0  # seconds of waiting in silence


@contextlib.contextmanager
def alone(target: Path, inside: bool = False) -> Iterator[bool]:
    """No two processes are in such a block for the same `target` at once; a killed one lets the next one in.

    Yields whether that is so: on a file system that cannot lock, a warning says that it is not. The lock is the file
    `.<name>.lock` beside the target, or `.lock` inside it, which is there as long as it is needed.
    """
    path = target / ".lock" if inside else target.with_name(f".{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    locked = _acquire(lock, target)
    try:
        yield locked
    finally:
        if locked:
            with contextlib.suppress(OSError):
                path.unlink()  # before the release: who waits for this very file sees that it is gone, and asks anew
            lock.release()


def _acquire(lock: FileLock, target: Path) -> bool:
    try:
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            log.info("waiting for another process that is making %s", target)
            lock.acquire(timeout=-1, poll_interval=0.2)
    except OSError as error:
        log.warning(
            "%s cannot be locked (%s): a process that needs %s at the same time may make it once more",
            target.parent, error, target.name,
        )  # fmt: skip
        return False
    return True
