"""Files that are either whole or absent, and the one writer of image files."""

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

PART = ".part-"  # in the names of temporary files
_UMASK = os.umask(0)
os.umask(_UMASK)
# how libraries say that a disk is full which have no error number: safetensors, torch
FULL = ("No space left on device", "os error 28", "File too large", "os error 27", "failed writing file")
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 3]


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary file name beside `path`, which becomes `path` when the block ends without an error.

    The suffix is kept, so that writers which go by the extension work. A failed block leaves nothing behind; what a
    killed one leaves, the first writer in that folder an hour later removes.
    Errors: UserError where the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem[:40]}{PART}{secrets.token_hex(4)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean_once(target.parent.absolute())
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # safetensors makes files that their owner alone may read
        os.replace(temporary, target)
    except Exception as error:
        full = disk_full(error, target)
        if full is None or full is error:
            raise
        raise full from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_parts(folder: Path, idle: float = 3600) -> None:
    """Removes temporary files of `atomic_path` that nobody has written to for so many seconds."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if re.fullmatch(rf"\..*{re.escape(PART)}\w{{8}}(\.[^.]*)?", entry.name):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > idle:
                        os.unlink(entry)


_clean_once = functools.cache(remove_parts)  # a folder of many files is looked through once


def write_text(path: str | os.PathLike[str], text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Indented, keys in the order given; NaN and infinity are refused, because JSON has neither."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(path: str | os.PathLike[str], rows: Iterable[Iterable[Any]]) -> None:
    """The first row names the columns; file names that are no UTF-8 survive."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        csv.writer(stream).writerows(rows)


def disk_full(error: BaseException, path: Path) -> UserError | None:
    """The error in words where it, or one behind it, says that no more can be written; else None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DiskFull):
            return seen
        full = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or any(sign in str(seen) for sign in FULL):
            return DiskFull(
                f"Nothing more can be written to {path.absolute().parent}: its disk is full, or a limit is reached "
                f"({seen}). Make room, then start the same command again: what is finished stays."
            )
        seen = seen.__cause__ or seen.__context__
    return None


class DiskFull(UserError):
    """What was written before stays whole."""


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an RGB picture (H, W, 3) or a grey one (H, W), uint8, or a mask (H, W) bool, in the ending's format. Its
    folder is made if need be.

    Errors: UserError where the file cannot be written.
    """
    pixels = image.astype(np.uint8) * 255 if image.dtype == bool else image
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    _, code = cv2.imencode(path.suffix, pixels, PNG if path.suffix == ".png" else [])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(code.tobytes())  # unlike OpenCV's own writer this takes every name that a file can have
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error
