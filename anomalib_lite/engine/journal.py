"""Journal of a prediction: one line per answered image, written at once, so that a killed command can resume."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from anomalib_lite.defects import Inspector
from anomalib_lite.defects.collect import columns, header, rows_of
from anomalib_lite.errors import UserError
from anomalib_lite.runs.artifacts import exclusive_lock
from anomalib_lite.runs.atomic import atomic_path, disk_full, write_csv
from anomalib_lite.runs.folder import refuse_run

JOURNAL = ".predictions"  # its first line holds the key of the call that made the folder's results
TABLES = ("predictions.csv", "defects.csv", "defects.json")
PICTURES = {"overlays": "*.png", "maps": "*.tiff", "defects": "*.png"}  # subfolders of an output, and their files
Stamp = tuple[int, int]  # a file's size in bytes and time of its last change in ns


@dataclass(frozen=True)
class Summary:
    """Numbers of judged and of flagged (NOK) images, and why the other images were refused."""

    judged: int
    flagged: int
    refused: list[str]

    @property
    def given(self) -> int:
        return self.judged + len(self.refused)


def stamp_of(path: Path) -> Stamp:
    """Returns the file's current stamp; (-1, -1) where there is none."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


class Journal:
    """Answers of one output folder in the order of arrival; memory only holds the images' names.

    An image that has changed is judged again, and its last answer counts. Results in the folder that depend on another
    `call_key`, or are of an image that is not in `pictures` or named otherwise there, are removed.

    pictures: name of each image's output pictures, if all images are known. Raises UserError if the folder cannot be
    written to, another process is writing to it, or it holds pictures that no prediction wrote.
    """

    def __init__(self, output: Path, call_key: Mapping[str, Any], pictures: Mapping[str, str] | None = None) -> None:
        self.output, self.path = output, output / JOURNAL
        self.names: dict[str, str] = {}  # name of the output pictures -> image
        self._entries: dict[str, tuple[Stamp, int, str]] = {}  # image -> stamp, offset of its line, and OK, NOK or ""
        _refuse_foreign(output)
        first = json.dumps(call_key, sort_keys=True).encode() + b"\n"
        self._open = ExitStack()
        try:
            self._open.enter_context(exclusive_lock(output, inside=True, wait=False))
            if not self._resumes(first, pictures):
                remove_results(output)
                self.path.write_bytes(first)
            self._stream = self._open.enter_context(self.path.open("r+b"))
        except OSError as error:
            self._open.close()
            full = disk_full(error, self.path)
            raise full or UserError(f"{output} cannot be written to: {error.strerror}.") from error
        self._load()

    def has(self, image: Path) -> bool:
        """Whether the image was answered and has not changed since."""
        entry = self._entries.get(str(image))
        return entry is not None and entry[0] == stamp_of(image)

    def add(self, answer: Mapping[str, Any], stamp: Stamp, name: str) -> None:
        """Appends an answer of `TrainedRun.record`, or an unreadable `image` and why it is `refused`.

        stamp: of the image file when it was read. name: of its output pictures. Raises UserError if the disk is full.
        """
        line = json.dumps({**answer, "stamp": stamp, "name": name}).encode() + b"\n"
        offset = self._stream.seek(0, 2)
        try:
            self._stream.write(line)
            self._stream.flush()  # hands the line to the system, so that a kill of this process does not lose it
        except OSError as error:
            raise disk_full(error, self.path) or error from error
        self._index(answer, stamp, name, offset)

    def answers(self) -> Iterator[dict[str, Any]]:
        """Yields the last answer of each image, read from the file."""
        with self.path.open("rb") as stream:
            for _, offset, _ in list(self._entries.values()):
                stream.seek(offset)
                answer = json.loads(stream.readline())
                yield {key: value for key, value in answer.items() if key not in ("stamp", "name")}

    def summary(self) -> Summary:
        counts = Counter(verdict for _, _, verdict in self._entries.values())
        refused = [answer["refused"] for answer in self.answers() if "refused" in answer] if counts[""] else []
        return Summary(counts["OK"] + counts["NOK"], counts["NOK"], refused)

    def write_tables(self, inspector: Inspector | None) -> None:
        """Writes predictions.csv (image, score, nok), and with an inspector defects.csv and defects.json."""
        judged = ((a["image"], a["score"], int(a["nok"])) for a in self._judged())
        write_csv(self.output / TABLES[0], chain([("image", "score", "nok")], judged))
        if inspector is None:
            return
        rows = (rows_of(inspector, a["image"], a["accepted"], a["defects"]) for a in self._judged())
        write_csv(self.output / TABLES[1], chain([columns(inspector)], chain.from_iterable(rows)))
        with atomic_path(self.output / TABLES[2]) as temporary, temporary.open("w", encoding="utf-8") as text:
            text.write(json.dumps(header(inspector), indent=2)[:-2] + ',\n  "images": [')
            for number, answer in enumerate(self._judged()):
                entry = {name: answer[name] for name in ("image", "accepted", "defects")}
                text.write(("," if number else "") + "\n    " + json.dumps(entry, allow_nan=False))
            text.write("\n  ]\n}\n")

    def close(self) -> None:
        self._open.close()

    def _judged(self) -> Iterator[dict[str, Any]]:
        return (answer for answer in self.answers() if "refused" not in answer)

    def _resumes(self, first: bytes, pictures: Mapping[str, str] | None) -> bool:
        if not self.path.is_file():
            return False
        with self.path.open("rb") as stream:
            if stream.readline() != first:
                return False
            answers = (json.loads(line) for line in stream if line.endswith(b"\n"))
            return pictures is None or all(pictures.get(a["image"]) == a["name"] for a in answers)

    def _load(self) -> None:
        """Indexes the answers of an earlier call, and drops a last line that a kill cut off."""
        self._stream.readline()
        offset = self._stream.tell()
        for line in self._stream:
            if not line.endswith(b"\n"):
                self._stream.truncate(offset)
                break
            answer = json.loads(line)
            self._index(answer, tuple(answer["stamp"]), answer["name"], offset)
            offset += len(line)

    def _index(self, answer: Mapping[str, Any], stamp: Stamp, name: str, offset: int) -> None:
        image = answer["image"]
        self._entries.pop(image, None)
        self._entries[image] = (stamp, offset, "" if "refused" in answer else "NOK" if answer["nok"] else "OK")
        self.names[name] = image


def _refuse_foreign(output: Path) -> None:
    refuse_run(output)
    if _has_results(output):
        return
    for folder, pattern in PICTURES.items():
        if any((output / folder).rglob(pattern)):
            raise UserError(f"{output / folder} has pictures that no prediction wrote: choose another output=.")


def _has_results(output: Path) -> bool:
    return (output / JOURNAL).is_file() or (output / TABLES[0]).is_file()


def remove_results(output: Path) -> None:
    """Removes the files of an earlier prediction, and nothing else."""
    if _has_results(output):
        for name in (*TABLES, JOURNAL):
            (output / name).unlink(missing_ok=True)
        for folder, pattern in PICTURES.items():
            for picture in (output / folder).resolve().rglob(pattern):
                picture.unlink()
