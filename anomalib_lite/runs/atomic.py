"""Atomic writing: files are either complete or absent. Also writes JSON, CSV and images."""

import contextlib
import csv
import errno
import functools
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomalib_lite.errors import UserError

PART = ".part-"  # marks names of temporary files
_UMASK = os.umask(0)
os.umask(_UMASK)
# messages of libraries without an errno (safetensors, torch) when a disk is full
FULL = ("No space left on device", "os error 28", "File too large", "os error 27", "failed writing file")
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 3]


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary file beside `path`, which is renamed to `path` if the block ends without an error.

    It has the suffix of `path`, for writers that choose the format by it. A failed block leaves no file behind; a
    killed one does, and the first process that writes to the folder an hour later removes it.

    Raises:
        UserError: The disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem[:40]}{PART}{secrets.token_hex(4)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean_once(target.parent.absolute())
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # safetensors creates files that only their owner can read
        os.replace(temporary, target)
    except Exception as error:
        if full := disk_full(error, target):
            raise full from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_parts(folder: Path, idle: float = 3600) -> None:
    """Removes temporary files of `atomic_path` that have not changed for `idle` seconds."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if re.fullmatch(rf"\..*{re.escape(PART)}\w{{8}}(\.[^.]*)?", entry.name):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > idle:
                        os.unlink(entry)


_clean_once = functools.cache(remove_parts)  # scans each folder once per process


def write_text(path: str | os.PathLike[str], text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes indented JSON, keys in the order given; raises ValueError for NaN and infinity, which JSON lacks."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(path: str | os.PathLike[str], rows: Iterable[Iterable[Any]]) -> None:
    """Writes rows, the first with the columns' names; preserves file names that are not valid UTF-8."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        csv.writer(stream).writerows(rows)


def disk_full(error: BaseException, path: Path) -> UserError | None:
    """Returns a UserError if the error, or one that caused it, says that the disk is full, and is not yet one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DiskFull):
            return cause if cause is not error else None
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or any(phrase in str(cause) for phrase in FULL):
            return DiskFull(
                f"Nothing more can be written to {path.absolute().parent}: its disk is full, or a limit is reached "
                f"({cause}). Free some space, then run the same command again: finished work is kept."
            )
        cause = cause.__cause__ or cause.__context__
    return None


class DiskFull(UserError):
    """The disk is full; files written before are complete."""


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an image, uint8 RGB (H, W, 3), uint8 grey (H, W) or bool mask (H, W), in the format of the suffix.

    Creates the folder if needed. Raises UserError if the file cannot be written.
    """
    pixels = image.astype(np.uint8) * 255 if image.dtype == bool else image
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    _, code = cv2.imencode(path.suffix, pixels, PNG if path.suffix == ".png" else [])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(code.tobytes())  # unlike cv2.imwrite, this supports every file name
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
