"""A trained run judges pictures that are decoded once: score, verdict, map, defects, and what is drawn of them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from anomalib_lite.data.decode import read_image
from anomalib_lite.data.images import at_once, content
from anomalib_lite.data.sample import Outcome, Sample
from anomalib_lite.defects.collect import draw_defects
from anomalib_lite.engine.evaluate import open_collector
from anomalib_lite.engine.predict import TrainedRun
from anomalib_lite.report.pictures import overlay

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Picture:
    """A decoded file: pixels at its own size, uint8 (H, W, 3), and as the detector sees it."""

    sample: Sample
    pixels: np.ndarray
    shown: np.ndarray


@dataclass(frozen=True)
class Judged:
    """outcome: with picture and map, its defects once `inspect` has found them. seen: the picture and the map that
    defects are found in: of a letterboxed one as the detector saw it. inside: rows and columns of `seen` that hold the
    picture.
    """

    outcome: Outcome
    seen: tuple[np.ndarray, np.ndarray]
    inside: tuple[slice, slice]


class Judging:
    """How a trained run answers. All but `judge` may be called by several threads at once.

    template: the golden image; None: the run's own.
    """

    def __init__(self, trained: TrainedRun, template: Path | None = None) -> None:
        self.trained = trained
        judge = trained.judge
        self.golden, self.bits = template or trained.golden, trained.known.get("bits")
        self.at_once = at_once(trained.model.at_once(judge.batch_size), judge.size)
        collector = open_collector(trained.path, trained.threshold)
        self.inspector = collector.inspector if collector else None
        self._images = judge.images([])

    def open(self, path: Path, data: bytes | None = None) -> Picture:
        """A file, or the content of one that is called so. Errors: UnreadableImage."""
        pixels = read_image(path, self.bits, data)
        sample = Sample(path, None, template=self.golden, bits=self.bits)
        return Picture(sample, pixels, self._images.shown(pixels, path))

    def judge(self, pictures: Sequence[Picture]) -> list[Judged]:
        """The model's answers, without defects."""
        shown, samples = np.stack([p.shown for p in pictures]), [p.sample for p in pictures]
        shapes = [p.pixels.shape[:2] for p in pictures]
        batch = self._images.batch(samples, shown, np.zeros(shown.shape[:3], bool), shapes, range(len(samples)))
        map, score = self.trained.model.predict_batch(batch)
        maps, judged = map.float().cpu().numpy()[:, 0], []
        for k, picture in enumerate(pictures):
            value, whole = float(score[k]), maps[k].copy()
            inside = (slice(0, whole.shape[0]), slice(0, whole.shape[1]))
            seen = (picture.pixels, whole)
            if batch.inside is not None:
                inside, seen = content(batch.inside[k]), (picture.shown, whole)
            own = np.ascontiguousarray(whole[inside])
            nok = self.trained.threshold.nok(value)
            judged.append(Judged(Outcome(picture.sample, value, nok, image=picture.pixels, map=own), seen, inside))
        return judged

    def inspect(self, judged: Judged) -> Judged:
        """The same with its defects; without an inspector there are none."""
        if self.inspector is None:
            return judged
        pixels, map = judged.seen
        defects = self.inspector.inspect(map, pixels, self.trained.threshold.pixel)
        return replace(judged, outcome=replace(judged.outcome, defects=defects))

    def overlay(self, judged: Judged) -> np.ndarray:
        """The map over the picture, RGB at the picture's own size."""
        outcome = judged.outcome
        assert outcome.image is not None and outcome.map is not None
        return overlay(outcome.image, outcome.map, self.trained.threshold.pixel)

    def outlines(self, judged: Judged) -> np.ndarray | None:
        """The defects drawn into the picture that they were found in; None where there are none."""
        if self.inspector is None or not judged.outcome.defects:
            return None
        return draw_defects(judged.seen[0], judged.outcome.defects, self.inspector.settings.types)

    def record(self, judged: Judged) -> dict[str, Any]:
        """JSON-ready: image, score, nok, accepted (None without an inspector), and defects, the worst first.

        A defect's `box` is in px of the inspection, `box_in_image` (x, y, width, height) in those of the file.
        """
        outcome = judged.outcome
        accepted = self.inspector.accepts(outcome.defects) if self.inspector else None
        defects = [d.record() | {"box_in_image": self._in_image(d.box, judged)} for d in outcome.defects]
        where = str(outcome.sample.image)
        return {"image": where, "score": outcome.score, "nok": outcome.nok, "accepted": accepted, "defects": defects}

    def _in_image(self, box: tuple[int, int, int, int], judged: Judged) -> list[int]:
        assert self.inspector is not None and judged.outcome.image is not None
        sides = []
        for axis, (start, length) in enumerate(((box[1], box[3]), (box[0], box[2]))):
            inside, own = judged.inside[axis], judged.outcome.image.shape[axis]
            scale = judged.seen[1].shape[axis] / self.inspector.reference.shape[axis]
            ends = [
                (edge * scale - inside.start) * own / (inside.stop - inside.start) for edge in (start, start + length)
            ]
            first, last = (min(max(round(end), 0), own) for end in ends)
            sides.append((first, last - first))
        return [sides[1][0], sides[0][0], sides[1][1], sides[0][1]]


def in_order(pool: ThreadPoolExecutor, work: Callable[[A], B], items: Iterable[A], ahead: int) -> Iterator[B]:
    """`pool.map` that takes no more than `ahead` items before their results are asked for."""
    source, waiting = iter(items), deque[Future[B]]()
    for item in islice(source, ahead):
        waiting.append(pool.submit(work, item))
    while waiting:
        done = waiting.popleft().result()
        for item in islice(source, 1):
            waiting.append(pool.submit(work, item))
        yield done
