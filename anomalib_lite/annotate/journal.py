"""An append-only file of JSON lines: what was written once is never lost."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)


class Journal:
    """Opens, locks and reads a journal; `events` holds what it said, `torn` what its last line had left.

    A process that dies while it writes leaves a torn last line: that line is cut off, and kept in `torn`. A
    damaged line anywhere else is not the trace of a crash and raises UserError, as does a journal in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        is_new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _lock(self._file, path)
            if is_new:
                _sync_folder(path.parent)
            self.events, whole, self.torn = _read(path)
            if self.torn is not None:
                log.warning("%s ended in a torn line of %d bytes, which was cut off", path, len(self.torn))
                os.ftruncate(self._file, whole)
                os.fsync(self._file)
        except BaseException:
            self.close()
            raise

    def append(self, event: dict[str, Any]) -> None:
        """Returns once the event is on the disk. Raises OSError otherwise; the journal is then as before."""
        line = json.dumps(event, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        whole = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, whole)
            raise
        self.events.append(event)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _read(path: Path) -> tuple[list[dict[str, Any]], int, bytes | None]:
    """The events, the length in bytes of the whole lines, and the torn rest or None."""
    content = path.read_bytes()
    events: list[dict[str, Any]] = []
    start = 0
    while start < len(content):
        end = content.find(b"\n", start) + 1
        line = content[start : end or len(content)]
        event = _parse(line) if end else None
        if event is None:
            if end and content[end:].strip(b"\0\r\n "):
                raise UserError(
                    f"{path}, line {len(events) + 1} is damaged: {line[:80]!r}. Put it right "
                    "or delete it (that answer is then lost), and start again."
                )
            return events, start, content[start:]
        events.append(event)
        start = end
    return events, len(content), None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _lock(file: int, path: Path) -> None:
    """Held until the file is closed or the process dies, so that two servers never write the same labels."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path} is in use: another annotate labels these crops. Stop it first.") from None
    except OSError as error:  # some network file systems have no locks
        log.warning("%s could not be locked (%s): start only one annotate on it", path, error)


def _sync_folder(folder: Path) -> None:
    """A new file survives a power failure only when its folder's entry is on the disk, too."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
