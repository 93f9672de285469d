"""Any number of images judged in constant memory: decoded, judged and written at the same time, each read once."""

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
from anomalib_lite.data.files import list_images, output_names
from anomalib_lite.engine.journal import PICTURES, Journal, Stamp, Summary, make_room, stamp_of
from anomalib_lite.engine.predict import Judged, Picture, TrainedRun, in_order
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path
from anomalib_lite.runs.folder import MODEL

BATCH_BYTES = 2**28  # of pictures that are judged together
POLL = 0.5  # s between two looks into a watched folder
PATIENCE = 30.0  # s that a file may stay unchanged and unreadable before it is refused
TABLES_EVERY = 5.0  # s between two writings of the tables while new images come

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Wanted:
    """What is written of each image beside its line in the tables, and who is told of it. told: each answer as a
    dictionary; a resumed `predict` tells those of the earlier call, too.
    """

    overlays: bool = True
    maps: bool = True
    told: Tell | None = None


def predict(trained: TrainedRun, paths: Sequence[Path], output: Path, wanted: Wanted) -> Summary:
    """Judges images, and writes predictions.csv, defects.*, overlays/, defects/ and maps/ to the output folder.

    The same call goes on where a killed one stopped. What another call wrote there is removed first: results of two
    calls never lie mixed.
    Errors: UserError where none of the images can be read, and where one lies in a folder that is written to.
    """
    _keep_apart(output, paths)
    base = os.path.commonpath([p.absolute().parent for p in paths])
    journal = Journal(output, _made_with(trained, wanted, [base]))
    with contextlib.closing(journal):
        if wanted.told is not None:
            for answer in journal.answers():
                wanted.told(answer)
        left = [(p, name) for p, name in zip(paths, output_names(paths), strict=True) if not journal.knows(p)]
        with tqdm(total=len(paths), initial=len(paths) - len(left), desc="predict", unit=" images", delay=2) as bar:
            _Stream(trained, journal, wanted, done=bar.update).run(left)
        summary = journal.summary()
        if not summary.judged:
            make_room(output)
            with contextlib.suppress(OSError):
                output.rmdir()
            raise UserError("None of the images can be read:\n  " + "\n  ".join(summary.refused))
        journal.write_tables(trained.inspector)
    journal.remove()
    return summary


def watch(
    trained: TrainedRun, folders: Sequence[Path], output: Path, wanted: Wanted, stop: Event, settle: float = 2.0
) -> Summary:
    """Judges the images that lie in folders, and those that come, until `stop` is set; each once, also by a later call.

    The tables are written when nothing waits, and at the end.

    Args:
        trained: Who judges.
        folders: Folders, with all that lies below them.
        output: A folder outside of these.
        wanted: What is written.
        stop: Ends the watch after the images that are under way.
        settle: Seconds that a file must stay unchanged before it is read.
    """
    for folder in folders:
        if output.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"The output {output} lies in the watched folder {folder}: choose another one.")
    bases = [str(folder.resolve()) for folder in folders]
    journal, waiting, written = Journal(output, _made_with(trained, wanted, bases)), _Waiting(settle), 0.0
    stream = _Stream(trained, journal, wanted, keep=lambda path: not waiting.patient(path))
    dirty = True
    with contextlib.closing(journal):
        while not stop.is_set():
            begin = time.monotonic()
            images = [(image, folder) for folder in folders for image in list_images(folder, quiet=True)]
            ready = [pair for pair in images if not journal.knows(pair[0]) and waiting.settled(pair[0])]
            waiting.forget({image for image, _ in images})
            listed = time.monotonic() - begin
            stream.run((image, _name(image, folder, journal)) for image, folder in ready if not stop.is_set())
            dirty |= bool(ready)
            if dirty and not ready and time.monotonic() > written:
                begin = time.monotonic()
                journal.write_tables(trained.inspector)
                dirty, written = False, time.monotonic() + max(TABLES_EVERY, 20 * (time.monotonic() - begin))
            if not ready:
                stop.wait(max(POLL, 3 * listed))
        journal.write_tables(trained.inspector)
        return journal.summary()


@dataclass(frozen=True)
class _Stream:
    """Images through decoding, judging and writing, answers in the images' order.

    done: called after each. keep: whether an image that cannot be read is refused for good.
    """

    trained: TrainedRun
    journal: Journal
    wanted: Wanted
    done: Callable[[], Any] = lambda: None
    keep: Callable[[Path], bool] = lambda path: True

    def run(self, images: Iterable[tuple[Path, str]]) -> None:
        """Images with the names of their pictures."""
        threads = min(4, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            opened = in_order(pool, self._open, images, self.trained.at_once)
            for answer, stamp, name in in_order(pool, self._finish, self._judged(opened), 2 * threads):
                if answer is not None:
                    self.journal.add(answer, stamp, name)
                    if self.wanted.told is not None:
                        self.wanted.told(answer)
                self.done()

    def _open(self, image: tuple[Path, str]) -> tuple[Path, str, Stamp, Picture | UnreadableImage]:
        path, name = image
        stamp = stamp_of(path)
        try:
            return path, name, stamp, self.trained.open(path)
        except UnreadableImage as error:
            return path, name, stamp, error

    def _judged(self, opened: Iterator[Any]) -> Iterator[tuple[Path, str, Stamp, Judged | UnreadableImage]]:
        while batch := list(self._batch(opened)):
            pictures = [found for *_, found in batch if isinstance(found, Picture)]
            answers = iter(self.trained.answers(pictures) if pictures else [])
            for path, name, stamp, found in batch:
                yield path, name, stamp, next(answers) if isinstance(found, Picture) else found

    def _batch(self, opened: Iterator[Any]) -> Iterator[Any]:
        """The next ones that are judged together: fewer of large pictures."""
        size = 0
        for item in islice(opened, self.trained.at_once):
            yield item
            size += item[-1].pixels.nbytes if isinstance(item[-1], Picture) else 0
            if size > BATCH_BYTES:
                return

    def _finish(
        self, item: tuple[Path, str, Stamp, Judged | UnreadableImage]
    ) -> tuple[dict[str, Any] | None, Stamp, str]:
        """The pictures are written before the journal knows of the image."""
        path, name, stamp, found = item
        if isinstance(found, UnreadableImage):
            return ({"image": str(path), "refused": str(found)} if self.keep(path) else None), stamp, name
        judged, output = self.trained.inspect(found), self.journal.output
        assert judged.outcome.map is not None
        if self.wanted.maps:
            _write_pixels(output / "maps" / f"{name}.tiff", judged.outcome.map)
        if self.wanted.overlays:
            _write_pixels(output / "overlays" / f"{name}.png", self.trained.overlay(judged)[..., ::-1])
            if (drawn := self.trained.outlines(judged)) is not None:
                _write_pixels(output / "defects" / f"{name}.png", drawn[..., ::-1])
        return self.trained.record(judged), stamp, name


class _Waiting:
    """Files that may still be written: since when each is as it is."""

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

    def patient(self, path: Path) -> bool:
        """Whether a file that cannot be read may still become whole."""
        stamp, since = self._since.get(path, ((-1, -1), 0.0))
        return stamp != stamp_of(path) or time.monotonic() - since < max(PATIENCE, self.settle)

    def forget(self, present: set[Path]) -> None:
        self._since = {path: known for path, known in self._since.items() if path in present}


def being_written(path: Path) -> bool:
    """Whether a program has the file open for writing; False where the system does not tell.

    Linux grants a read lease on a file that nobody writes, on its own file systems.
    """
    try:
        import fcntl  # of Unix alone

        with path.open("rb") as stream:
            # someone who opens the file in this moment makes the system signal the lease's holder
            fcntl.fcntl(stream, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except (ImportError, AttributeError):
        return False
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


def _made_with(trained: TrainedRun, wanted: Wanted, bases: Sequence[str]) -> dict[str, Any]:
    model = trained.path if trained.path.is_file() else trained.path / MODEL
    region = getattr(trained.model, "region", None)
    return {
        "version": __version__, "run": str(trained.path.resolve()), "model": stamp_of(model),
        "threshold": repr(trained.threshold), "template": str(trained.golden), "images": list(bases),
        "overlays": wanted.overlays, "maps": wanted.maps,
        "region": None if region is None else zlib.crc32(region.cpu().numpy().tobytes()),
    }  # fmt: skip


def _name(image: Path, folder: Path, journal: Journal) -> str:
    """As `output_names` gives it, for images of which not all are known yet: the first of two keeps the short name."""
    (name,) = output_names([image])
    parts = image.relative_to(folder).parent.parts
    name = "/".join([*parts, name])
    return name if journal.names.setdefault(name, str(image)) == str(image) else name + image.suffix.replace(".", "_")


def _keep_apart(output: Path, images: Sequence[Path]) -> None:
    folders = [(output / name).resolve() for name in PICTURES]
    for image in images:
        if any(image.resolve().is_relative_to(folder) for folder in folders):
            raise UserError(f"{image} lies where predictions are written to: choose another output than {output}.")


def _write_pixels(path: Path, pixels: np.ndarray) -> None:
    """Pixels as OpenCV orders them."""
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), pixels):
            raise UserError(f"{path.absolute()} cannot be written: is the disk full?")
