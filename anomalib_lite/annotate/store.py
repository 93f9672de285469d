"""Stores the answers of a labelling job in a journal; each answer is on the disk before its call returns."""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import struct
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalib_lite.annotate.crops import LABELS_NAME, MASKS_FOLDER, Crop, CropSet, is_inside, mask_key
from anomalib_lite.data.decode import read_image, read_mask
from anomalib_lite.data.folder import COLUMNS, csv_line, read_labels
from anomalib_lite.errors import UserError
from anomalib_lite.runs.artifacts import exclusive_lock
from anomalib_lite.runs.atomic import atomic_path, write_image, write_text

log = logging.getLogger(__name__)

JOURNAL_NAME = "labels.journal.jsonl"
OK, NOK, SKIP = "OK", "NOK", "skip"
_SHOWN_AS_IS = {f".{kind}": f"image/{kind}" for kind in ("png", "jpeg", "webp", "bmp")} | {".jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer for one crop. label: OK, NOK, skip or None (not labelled). defect: optional, only for NOK."""

    label: str | None = None
    defect: str | None = None

    def __post_init__(self) -> None:
        if self.label not in (OK, NOK, SKIP, None):
            raise ValueError(f"a label is OK, NOK or skip, not {self.label!r}")
        if self.defect is not None and (self.label != NOK or not self.defect.strip()):
            raise ValueError("only a NOK crop has a defect, and its name is not empty")


UNLABELLED = Answer()


class StaleMask(UserError):
    """A mask was drawn on another one than that on the disk."""


def label_line(key: str, answer: Answer, mask: str | None) -> str:
    """Returns a crop's line of labels.csv; empty for a crop without a label. Only NOK crops get a mask."""
    fields = (key, answer.label, answer.defect or "", (mask or "") if answer.label == NOK else "")
    return csv_line(*fields) if answer.label in (OK, NOK) else ""


def answers_in(folder: Path) -> list[Path]:
    """Returns the files and folders in which a labelling job keeps its answers, as far as they exist."""
    return [path for name in (LABELS_NAME, JOURNAL_NAME, MASKS_FOLDER) if (path := folder / name).exists()]


def set_aside(folder: Path) -> list[Path]:
    """Gives the answers in a folder names with the time, so that they apply to no crops; returns the new paths.

    Raises UserError while a labelling job is open there.
    """
    if not answers_in(folder):
        return []
    with exclusive_lock(folder / JOURNAL_NAME, wait=False):
        return [path.rename(_dated(path, "before")) for path in answers_in(folder)]


def _dated(path: Path, word: str) -> Path:
    return path.with_name(f"{path.stem}.{word}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}{path.suffix}")


class Store:
    """The state of a labelling job; all methods are thread-safe.

    The journal is authoritative. labels.csv is a snapshot of it, rewritten after each event, or once for events that
    arrive during a write. Each event stores the digest of the previous snapshot: a labels.csv with an unknown digest
    was edited by hand. Opening imports its rows; what a snapshot would lose is copied to labels.edited-<time>.csv
    first. `notes` are messages on such edits, `warning` says why the last snapshot failed, or what it found edited.
    """

    def __init__(self, crop_set: CropSet) -> None:
        self.root = crop_set.root
        self.crops = {crop.id: crop for crop in crop_set.crops}
        self.answers: dict[str, Answer] = {}
        self.masks: dict[str, str | None] = {}
        self.notes: list[str] = []
        self.warning: str | None = None
        self.version = self._written = 0  # number of events, and of those that labels.csv contains
        self._by_key = {crop.key: crop for crop in crop_set.crops}
        self._history: list[tuple[str, Answer]] = []  # the previous answer of each changed crop, for undo
        self._lines: dict[str, str] = {}  # lines of labels.csv by crop, so that one answer changes one line only
        self._csv = ""  # digest of the last snapshot
        self._known: set[str] = set()  # digests of labels.csv whose content is in the journal, or was copied
        self._lock, self._writing = threading.Lock(), threading.Lock()
        with contextlib.ExitStack() as undo:
            self._journal = undo.enter_context(contextlib.closing(Journal(self.root / JOURNAL_NAME)))
            self._start()
            undo.pop_all()

    def answer(self, crop: Crop, answer: Answer) -> None:
        """Records an answer unless it is the current one, so that a request may be repeated."""
        with self._lock:
            if answer != self.answers.get(crop.key, UNLABELLED):
                self._append("answer", crop.key, label=answer.label, defect=answer.defect)
        self._snapshot()

    def undo(self, crop: Crop, answer: Answer) -> bool:
        """Undoes an answer of a crop; returns False, and changes nothing, if the crop does not have it by now."""
        with self._lock:
            before = next((before for key, before in reversed(self._history) if key == crop.key), None)
            if before is None or answer != self.answers[crop.key]:
                return False
            self._append("undo", crop.key, label=before.label, defect=before.defect)
        self._snapshot()
        return True

    def save_mask(self, crop: Crop, png: bytes, seen: str | None = None) -> None:
        """Writes a drawn mask to masks/<stem>.png, or removes that file if the mask is empty.

        seen: version of the file drawn on, None if there was none. Raises StaleMask if the file is another one now,
        unless it has the same pixels, as after a repeated request. Raises ValueError for a PNG that is no mask.
        """
        mask, key = decode_mask(png, read_image(crop.path).shape[:2]), mask_key(crop.key)
        with self._lock:
            path = self.mask_path(crop)
            if (current := file_version(path)) != seen:
                same = np.array_equal(read_mask(path), mask > 0) if path and current else not mask.any()
                if not same:
                    what = f"the mask of {crop.key} was changed on another page, or by another program"
                    raise StaleMask(f"{what}: reload this page to see it, then draw your strokes again")
            if mask.any():
                with atomic_path(self.root / key) as temporary:
                    write_image(temporary, mask)
            else:
                (self.root / key).unlink(missing_ok=True)
            self._append("mask", crop.key, mask=key if mask.any() else None)
        self._snapshot()

    def mask_path(self, crop: Crop) -> Path | None:
        key = self.masks.get(crop.key)
        return self.root / key if key else None

    def close(self) -> None:
        self._journal.close()

    def _append(self, action: str, key: str, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = {"time": now, "action": action, "crop": key, **fields, "csv": self._csv}
        self._journal.append(event)
        self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        key, action = event["crop"], event["action"]
        if action == "mask":
            self.masks[key] = event["mask"]
        else:
            if action == "answer":
                self._history.append((key, self.answers.get(key, UNLABELLED)))
            elif action == "undo":
                del self._history[max(i for i, (other, _) in enumerate(self._history) if other == key)]
            self.answers[key] = Answer(event["label"], event["defect"])
        self._csv = event["csv"]
        self.version += 1
        if key in self._lines:
            self._lines[key] = self._line(key)

    def _line(self, key: str) -> str:
        return label_line(key, self.answers.get(key, UNLABELLED), self.masks.get(key))

    def _snapshot(self) -> None:
        """Rewrites labels.csv unless another thread has done so meanwhile.

        A failure, such as a spreadsheet that has the file open, loses nothing, as the journal is complete.
        """
        needed = self.version
        with self._writing:
            if self._written >= needed:
                return
            with self._lock:  # all later events carry this digest, so the snapshot never seems edited by hand
                version, text = self.version, csv_line(*COLUMNS) + "".join(self._lines.values())
                self._csv = _digest(text.encode())
            try:
                warning = self._keep_edited()
                self._known.add(self._csv)
                write_text(self.root / LABELS_NAME, text)
            except (OSError, UserError) as error:
                kept = f"The answer is safe in {JOURNAL_NAME}; close programs that have {LABELS_NAME} open"
                self.warning = f"{LABELS_NAME} could not be written ({error}). {kept}."
                log.warning(self.warning)
            else:
                self._written, self.warning = version, warning

    def _keep_edited(self) -> str | None:
        """Copies a labels.csv that would be lost when it is replaced; returns a message if there is one."""
        labels = self.root / LABELS_NAME
        if not labels.is_file() or (digest := _digest(content := labels.read_bytes())) in self._known:
            return None
        with atomic_path(kept := _dated(labels, "edited")) as temporary:
            temporary.write_bytes(content)
        self._known.add(digest)
        what = f"{LABELS_NAME} had content of another program that annotate does not keep; a copy is {kept.name}"
        return self._note(f"{what}. To add labels from it, stop annotate, enter them in {LABELS_NAME} and start again.")

    def _start(self) -> None:
        journal, labels = self._journal, self.root / LABELS_NAME
        if journal.torn:
            self._note("The last answer was only half written and is lost: check the last crop again.")
        for line, event in enumerate(journal.events, start=1):
            try:
                self._apply(event)
            except (KeyError, TypeError, ValueError) as error:
                what = f"{journal.path}, line {line} is not an event of a labelling job ({error!r})"
                raise UserError(f"{what}: correct or delete the line.") from None
        self._known = {event["csv"] for event in journal.events}
        journal.events.clear()
        written, edited = [self._line(key) for key in self.answers], None
        if labels.is_file() and _digest(content := labels.read_bytes()) not in self._known:
            edited = self._import(labels)
        # trust the mask files over the journal, as a mask is written or removed before its event
        for key in self._by_key.keys() | self.masks.keys():
            candidates = (self.masks.get(key), mask_key(key))
            self.masks[key] = next((mask for mask in candidates if mask and (self.root / mask).is_file()), None)
        others = (key for key in self.answers if key not in self._by_key and (self.root / key).is_file())
        self._lines = {key: self._line(key) for key in [*self._by_key, *sorted(others)]}
        if edited is not None:
            kept = "".join([csv_line(*COLUMNS), *written, *self._lines.values()])
            if {*content.decode("utf-8-sig", "replace").splitlines()} <= {*kept.splitlines()}:
                self._known.add(_digest(content))
            if restored := sum(bool(line) and key not in edited for key, line in self._lines.items()):
                what = f"{restored} answers that {LABELS_NAME} lacked were restored from {JOURNAL_NAME}"
                self._note(f"{what}: to take a crop out of the table, skip it (space) instead of deleting its row.")
        if self.answers:
            self._snapshot()

    def _import(self, labels: Path) -> set[str]:
        """Takes over the rows that differ from the journal; returns the crops of all rows."""
        changed, rows = 0, read_labels(labels)
        for row in rows:
            key, answer = row.crop, Answer(row.label, row.defect)
            if not is_inside(key) or (row.mask and not is_inside(row.mask)):
                self._note(f"{LABELS_NAME}: skipped {key!r}, mask {row.mask!r}: it points outside its folder.")
                continue
            if answer != self.answers.get(key, UNLABELLED):
                self._append("import", key, label=answer.label, defect=answer.defect)
                changed += 1
            if row.mask and row.mask != self.masks.get(key) and (self.root / row.mask).is_file():
                self._append("mask", key, mask=row.mask)
        if changed:
            self._note(f"{changed} answers were imported from {LABELS_NAME}, which another program has changed.")
        return {row.crop for row in rows}

    def _note(self, text: str) -> str:
        self.notes.append(text)
        log.warning(text)
        return text


def file_version(path: Path | None) -> str | None:
    """Returns a text that changes with a file; None if there is no such file."""
    try:
        return f"{path.stat().st_mtime_ns:x}" if path else None
    except OSError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def browser_image(path: Path) -> tuple[bytes, str]:
    """Returns an image's bytes and media type. Raises UserError, OSError.

    Formats that browsers cannot show (TIFF), and images with EXIF tags, are converted to PNG by the data sets' reader,
    so that a drawn mask fits the pixels used in training.
    """
    content = path.read_bytes()
    media_type = _SHOWN_AS_IS.get(path.suffix.lower())
    if media_type and not re.search(rb"exif", content, re.IGNORECASE):
        return content, media_type
    pixels = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes(), "image/png"


def decode_mask(png: bytes, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Decodes a mask (H, W) of 0 and 255 from the alpha channel of a drawn PNG.

    Checks the size in the header first. Raises ValueError if it is no PNG of `size` (H, W) with an alpha channel.
    """
    if len(png) < 33 or not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("a mask must be a PNG")
    width, height = struct.unpack(">II", png[16:24])
    if (height, width) != size:
        raise ValueError(f"the mask has {width} x {height} pixels, but the crop has {size[1]} x {size[0]}")
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint8 or image.shape[2:] != (4,):
        raise ValueError("the mask's PNG is damaged or has no 8-bit alpha channel")
    return np.where(image[..., 3] > 127, 255, 0).astype(np.uint8)


class Journal:
    """An append-only file of JSON lines that survives crashes.

    `events` are those in the file when it was opened, `torn` is an incomplete last line, left by a crash and cut off.
    Raises UserError for a damaged line before the last one, which no crash leaves behind, and for a journal in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.ExitStack() as opened:
            opened.enter_context(exclusive_lock(path, wait=False))
            self._file = opened.enter_context(path.open("a+b", buffering=0)).fileno()
            self.events, self.torn = self._read()
            if self.torn:
                log.warning("%s ended in an incomplete line of %d bytes, now cut off", path, len(self.torn))
                os.ftruncate(self._file, path.stat().st_size - len(self.torn))
                os.fsync(self._file)
            opened.callback(self._remove_if_empty)
            self._opened = opened.pop_all()

    def _read(self) -> tuple[list[dict[str, Any]], bytes]:
        content, complete = self.path.read_bytes(), 0  # bytes in complete lines
        events: list[dict[str, Any]] = []
        for line in io.BytesIO(content):
            event = None
            with contextlib.suppress(ValueError):
                event = json.loads(line) if line.endswith(b"\n") else None
            if not isinstance(event, dict):
                if content[complete + len(line) :].strip(b"\0\r\n "):
                    what = f"{self.path}, line {len(events) + 1} is damaged: {line[:80]!r}"
                    raise UserError(f"{what}. Correct the line, or delete it (that answer is lost), and start again.")
                break
            events.append(event)
            complete += len(line)
        return events, content[complete:]

    def append(self, event: dict[str, Any]) -> None:
        """Writes an event to the disk; if that fails, raises OSError and leaves the journal unchanged."""
        line = json.dumps(event, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise

    def close(self) -> None:
        self._opened.close()

    def _remove_if_empty(self) -> None:
        if not os.fstat(self._file).st_size:  # data sets in this folder would report a file that is no image
            self.path.unlink(missing_ok=True)
