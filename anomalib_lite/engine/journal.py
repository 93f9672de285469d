"""The journal of a prediction: a line an image as soon as it is answered, so that a killed command loses none."""

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
from anomalib_lite.runs.artifacts import alone
from anomalib_lite.runs.atomic import atomic_path, disk_full, write_csv

JOURNAL = ".predictions"  # its first line says what the folder's results are made with
TABLES = ("predictions.csv", "defects.csv", "defects.json")
PICTURES = {"overlays": "*.png", "maps": "*.tiff", "defects": "*.png"}  # folders of an output, and what lies in them
Stamp = tuple[int, int]  # of a file: bytes, and time of the last change in ns


@dataclass(frozen=True)
class Summary:
    """Numbers of images: judged, those of them that are NOK, and why the others were refused."""

    judged: int
    flagged: int
    refused: list[str]

    @property
    def given(self) -> int:
        return self.judged + len(self.refused)


def stamp_of(path: Path) -> Stamp:
    """Of a file as it is now; (-1, -1) where there is none."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


class Journal:
    """Answers of one output folder, in the order in which they came. In memory are the images' names alone.

    An image that changes is a new one; of its answers the last counts.

    Args:
        output: The folder; made where there is none.
        made_with: What the answers depend on. Answers of a journal with another beginning are removed with all that
            lies beside them in the output folder.
    Errors: UserError where the folder cannot be written to, and where another process writes to it.
    """

    def __init__(self, output: Path, made_with: Mapping[str, Any]) -> None:
        self.output, self.path = output, output / JOURNAL
        self.names: dict[str, str] = {}  # of pictures: which image each belongs to
        self._known: dict[str, tuple[Stamp, int, str]] = {}  # by image: its line's place in the file, and OK, NOK or ""
        first = json.dumps(made_with, sort_keys=True).encode() + b"\n"
        self._open = ExitStack()
        try:
            self._open.enter_context(alone(output, inside=True, wait=False))
            if not self._begins_with(first):
                make_room(output)
                self.path.write_bytes(first)
            self._stream = self._open.enter_context(self.path.open("r+b"))
        except OSError as error:
            self._open.close()
            raise disk_full(error, self.path) or UserError(
                f"{output} cannot be written to: {error.strerror}."
            ) from error
        self._recall()

    def knows(self, image: Path) -> bool:
        """Whether it is answered as it is now."""
        known = self._known.get(str(image))
        return known is not None and known[0] == stamp_of(image)

    def add(self, answer: Mapping[str, Any], stamp: Stamp, name: str) -> None:
        """answer: `TrainedRun.record`; or the image and, as `refused`, why there is none. name: of its pictures.

        Errors: UserError where the disk is full.
        """
        line = json.dumps({**answer, "stamp": stamp, "name": name}).encode() + b"\n"
        place = self._stream.seek(0, 2)
        try:
            self._stream.write(line)
            self._stream.flush()  # it is the system's now: a kill of this process does not lose it
        except OSError as error:
            raise disk_full(error, self.path) or error from error
        self._take(answer, stamp, name, place)

    def answers(self) -> Iterator[dict[str, Any]]:
        """All that counts, from the file."""
        with self.path.open("rb") as stream:
            for _, place, _ in list(self._known.values()):
                stream.seek(place)
                answer = json.loads(stream.readline())
                yield {key: value for key, value in answer.items() if key not in ("stamp", "name")}

    def summary(self) -> Summary:
        counts = Counter(verdict for _, _, verdict in self._known.values())
        refused = [answer["refused"] for answer in self.answers() if "refused" in answer] if counts[""] else []
        return Summary(counts["OK"] + counts["NOK"], counts["NOK"], refused)

    def write_tables(self, inspector: Inspector | None) -> None:
        """predictions.csv (image, score, nok); with an inspector defects.csv and defects.json."""
        judged = ((a["image"], a["score"], int(a["nok"])) for a in self._judged())
        write_csv(self.output / TABLES[0], chain([("image", "score", "nok")], judged))
        if inspector is None:
            return
        found = (rows_of(inspector, a["image"], a["accepted"], a["defects"]) for a in self._judged())
        write_csv(self.output / TABLES[1], chain([columns(inspector)], chain.from_iterable(found)))
        with atomic_path(self.output / TABLES[2]) as temporary, temporary.open("w", encoding="utf-8") as text:
            text.write(json.dumps(header(inspector), indent=2)[:-2] + ',\n  "images": [')
            for number, answer in enumerate(self._judged()):
                entry = {name: answer[name] for name in ("image", "accepted", "defects")}
                text.write(("," if number else "") + "\n    " + json.dumps(entry, allow_nan=False))
            text.write("\n  ]\n}\n")

    def close(self) -> None:
        self._open.close()

    def remove(self) -> None:
        """After the tables are written: they mark the folder from now on."""
        self.path.unlink()
        self.close()

    def _judged(self) -> Iterator[dict[str, Any]]:
        return (answer for answer in self.answers() if "refused" not in answer)

    def _begins_with(self, first: bytes) -> bool:
        if not self.path.is_file():
            return False
        with self.path.open("rb") as stream:
            return stream.readline() == first

    def _recall(self) -> None:
        """What an earlier call answered; a last line that a kill cut off is none."""
        self._stream.readline()
        place = self._stream.tell()
        for line in self._stream:
            if not line.endswith(b"\n"):
                self._stream.truncate(place)
                break
            answer = json.loads(line)
            self._take(answer, tuple(answer["stamp"]), answer["name"], place)
            place += len(line)

    def _take(self, answer: Mapping[str, Any], stamp: Stamp, name: str, place: int) -> None:
        image = answer["image"]
        self._known.pop(image, None)
        self._known[image] = (stamp, place, "" if "refused" in answer else "NOK" if answer["nok"] else "OK")
        self.names[name] = image


def make_room(output: Path) -> None:
    """Removes what an earlier prediction wrote, and nothing else."""
    if (output / JOURNAL).is_file() or (output / TABLES[0]).is_file():
        for name in (*TABLES, JOURNAL):
            (output / name).unlink(missing_ok=True)
        for folder, pattern in PICTURES.items():
            for picture in (output / folder).resolve().rglob(pattern):
                picture.unlink()
