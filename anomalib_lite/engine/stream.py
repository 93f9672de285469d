"""Predicts any number of images in constant memory: threads decode and write while the model runs."""

import contextlib
import errno
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite import __version__
from anomalib_lite.data.decode import UnreadableImage
from anomalib_lite.data.files import list_images, output_names, possible_names
from anomalib_lite.engine.journal import PICTURES, TABLES, Journal, Stamp, Summary, remove_results, stamp_of
from anomalib_lite.engine.predict import Judged, Picture, TrainedRun, in_order
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path
from anomalib_lite.runs.folder import MODEL

BATCH_BYTES = 2**28  # largest total size of the pictures in a batch
POLL = 0.5  # s between two scans of a watched folder
PATIENCE = 30.0  # s that a file may stay unchanged and unreadable before it is refused
TABLES_EVERY = 5.0  # s between two updates of the tables while new images arrive
NONE_READ = "None of the images can be read:\n  {}"


@dataclass(frozen=True)
class Outputs:
    """What is written for each image besides its line in the tables.

    on_answer: called with each answer, as a dictionary; a resumed `predict` repeats the answers of the earlier call.
    """

    overlays: bool = True
    maps: bool = True
    on_answer: Callable[[dict[str, Any]], None] | None = None


def predict(trained: TrainedRun, paths: Sequence[Path], output: Path, outputs: Outputs) -> Summary:
    """Judges images, and writes predictions.csv, defects.*, overlays/, defects/ and maps/ to the output folder.

    The same call resumes where a killed one stopped. Results of a different call are removed first, so that results of
    two calls never mix.

    Raises UserError if none of the images can be read, or one lies in a folder that is written to.
    """
    written = [(output / name).resolve() for name in PICTURES]
    for path in paths:
        if any(path.resolve().is_relative_to(folder) for folder in written):
            raise UserError(f"{path} lies in a folder that predictions are written to: choose another output=.")
    if (output / TABLES[0]).is_file():  # results of an earlier call, which are removed otherwise
        _need_readable(trained, paths)
    base = os.path.commonpath([p.absolute().parent for p in paths])
    names = dict(zip(map(str, paths), output_names(paths), strict=True))
    journal = Journal(output, _call_key(trained, outputs, [base]), names)
    with contextlib.closing(journal):
        if outputs.on_answer is not None:
            for answer in journal.answers():
                outputs.on_answer(answer)
        remaining = [(path, names[str(path)]) for path in paths if not journal.has(path)]
        answered = len(paths) - len(remaining)
        with tqdm(total=len(paths), initial=answered, desc="predict", unit=" images", delay=2) as bar:
            _Stream(trained, journal, outputs, after_each=bar.update).run(remaining)
        summary = journal.summary()
        if not summary.judged:
            remove_results(output)
            with contextlib.suppress(OSError):
                output.rmdir()
            raise UserError(NONE_READ.format("\n  ".join(summary.refused)))
        journal.write_tables(trained.inspector)
        journal.path.unlink()
    return summary


def _need_readable(trained: TrainedRun, paths: Sequence[Path]) -> None:
    refused = []
    for path in paths:
        try:
            trained.open(path)
            return
        except UnreadableImage as error:
            refused.append(str(error))
    raise UserError(NONE_READ.format("\n  ".join(refused)))


def watch(
    trained: TrainedRun, folders: Sequence[Path], output: Path, outputs: Outputs, stop: Event, settle: float = 2.0
) -> Summary:
    """Judges all images in folders, and new ones as they arrive, until `stop` is set; a later call skips judged images.

    The tables are written when no image is waiting, and at the end. output: a folder outside of the watched ones.
    settle: seconds that a file must stay unchanged before it is read.
    """
    for folder in folders:
        if output.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"The output {output} lies in the watched folder {folder}: choose another one.")
    bases = [str(folder.resolve()) for folder in folders]
    journal, waiting, next_write = Journal(output, _call_key(trained, outputs, bases)), _Waiting(settle), 0.0
    stream = _Stream(trained, journal, outputs, refuses=lambda path: not waiting.may_recover(path))
    dirty = True
    with contextlib.closing(journal):
        while not stop.is_set():
            begin = time.monotonic()
            images = [(image, folder) for folder in folders for image in list_images(folder, quiet=True)]
            ready = [pair for pair in images if not journal.has(pair[0]) and waiting.settled(pair[0])]
            waiting.keep_only({image for image, _ in images})
            scan_seconds = time.monotonic() - begin
            stream.run((image, _name(image, folder, journal)) for image, folder in ready if not stop.is_set())
            dirty |= bool(ready)
            if dirty and not ready and time.monotonic() > next_write:
                begin = time.monotonic()
                journal.write_tables(trained.inspector)
                dirty, next_write = False, time.monotonic() + max(TABLES_EVERY, 20 * (time.monotonic() - begin))
            if not ready:
                stop.wait(max(POLL, 3 * scan_seconds))
        journal.write_tables(trained.inspector)
        return journal.summary()


@dataclass(frozen=True)
class _Stream:
    """Decodes, judges and writes images; answers come in the images' order.

    after_each: called after each image. refuses: whether an unreadable image is recorded as refused, else it is tried
    again.
    """

    trained: TrainedRun
    journal: Journal
    outputs: Outputs
    after_each: Callable[[], Any] = lambda: None
    refuses: Callable[[Path], bool] = lambda path: True

    def run(self, images: Iterable[tuple[Path, str]]) -> None:
        """Processes pairs of an image file and the name of its output pictures."""
        threads = min(4, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            opened = in_order(pool, self._open, images, self.trained.at_once)
            for answer, stamp, name in in_order(pool, self._finish, self._judged(opened), 2 * threads):
                if answer is not None:
                    self.journal.add(answer, stamp, name)
                    if self.outputs.on_answer is not None:
                        self.outputs.on_answer(answer)
                self.after_each()

    def _open(self, image: tuple[Path, str]) -> tuple[Path, str, Stamp, Picture | UnreadableImage]:
        path, name = image
        stamp = stamp_of(path)
        try:
            return path, name, stamp, self.trained.open(path)
        except UnreadableImage as error:
            return path, name, stamp, error

    def _judged(self, opened: Iterator[Any]) -> Iterator[tuple[Path, str, Stamp, Judged | UnreadableImage]]:
        while batch := list(self._batch(opened)):
            pictures = [result for *_, result in batch if isinstance(result, Picture)]
            answers = iter(self.trained.answers(pictures) if pictures else [])
            for path, name, stamp, result in batch:
                yield path, name, stamp, next(answers) if isinstance(result, Picture) else result

    def _batch(self, opened: Iterator[Any]) -> Iterator[Any]:
        """Yields the items of the next batch, which is smaller for large pictures."""
        size = 0
        for item in islice(opened, self.trained.at_once):
            yield item
            size += item[-1].pixels.nbytes if isinstance(item[-1], Picture) else 0
            if size > BATCH_BYTES:
                return

    def _finish(
        self, item: tuple[Path, str, Stamp, Judged | UnreadableImage]
    ) -> tuple[dict[str, Any] | None, Stamp, str]:
        """Finds defects and writes the pictures, before `run` adds the answer to the journal."""
        path, name, stamp, result = item
        if isinstance(result, UnreadableImage):
            return ({"image": str(path), "refused": str(result)} if self.refuses(path) else None), stamp, name
        judged, output = self.trained.inspect(result), self.journal.output
        assert judged.outcome.map is not None
        if self.outputs.maps:
            _write_pixels(output / "maps" / f"{name}.tiff", judged.outcome.map)
        if self.outputs.overlays:
            _write_pixels(output / "overlays" / f"{name}.png", self.trained.overlay(judged)[..., ::-1])
            if (drawn := self.trained.outlines(judged)) is not None:
                _write_pixels(output / "defects" / f"{name}.png", drawn[..., ::-1])
        return self.trained.record(judged), stamp, name


class _Waiting:
    """Tracks since when each new file is unchanged, because another program may still be writing it."""

    def __init__(self, settle: float) -> None:
        self.settle = settle
        self._since: dict[Path, tuple[Stamp, float]] = {}

    def settled(self, path: Path) -> bool:
        stamp, now = stamp_of(path), time.monotonic()
        before, since = self._since.get(path, ((-1, -1), now))
        if stamp != before:
            self._since[path] = (stamp, now)
            return self.settle == 0
        return now - since >= self.settle and not being_written(path)

    def may_recover(self, path: Path) -> bool:
        """Whether an unreadable file may still become readable, because it changed a short time ago."""
        stamp, since = self._since.get(path, ((-1, -1), 0.0))
        return stamp != stamp_of(path) or time.monotonic() - since < max(PATIENCE, self.settle)

    def keep_only(self, present: set[Path]) -> None:
        self._since = {path: entry for path, entry in self._since.items() if path in present}


def being_written(path: Path) -> bool:
    """Whether a program has the file open for writing; False where the system cannot tell.

    On its native file systems, Linux grants a read lease only on a file that nobody has open for writing.
    """
    try:
        import fcntl  # Unix only

        with path.open("rb") as stream:
            # Linux signals the lease's holder when another process opens the file; SIGURG is ignored by default
            fcntl.fcntl(stream, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except (ImportError, AttributeError):
        return False
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


def _call_key(trained: TrainedRun, outputs: Outputs, bases: Sequence[str]) -> dict[str, Any]:
    """Returns what the results depend on; a later call with the same key resumes this one."""
    model = trained.path if trained.path.is_file() else trained.path / MODEL
    region = getattr(trained.model, "region", None)
    return {
        "version": __version__, "run": str(trained.path.resolve()), "model": stamp_of(model),
        "threshold": repr(trained.threshold), "images": list(bases),
        "template": trained.golden and [str(trained.golden), *stamp_of(trained.golden)],
        "overlays": outputs.overlays, "maps": outputs.maps,
        "region": None if region is None else zlib.crc32(region.cpu().numpy().tobytes()),
    }  # fmt: skip


def _name(image: Path, folder: Path, journal: Journal) -> str:
    """Names an image's pictures, while more images may come: by the first of its names that no earlier image has."""
    names = possible_names(image.relative_to(folder), str(image))  # in the folders of several cameras names repeat
    return next(name for name in names if journal.names.setdefault(name, str(image)) == str(image))


def _write_pixels(path: Path, pixels: np.ndarray) -> None:
    """Writes pixels in OpenCV's channel order (BGR)."""
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), pixels):
            raise UserError(f"{path.absolute()} cannot be written: is the disk full?")
