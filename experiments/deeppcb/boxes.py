"""Metrics of defect boxes: precision, recall and F-score as defined for DeepPCB, and average precision.

Tang, He, Huang, Yang, "Online PCB Defect Detector On A New PCB Defect Dataset", arXiv:1902.06197, section IV: a box is
correct if its intersection over union with a true box of its class exceeds 0.33.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from anomalib_lite.data.deeppcb import Box
from anomalib_lite.metrics import MetricResult

MIN_IOU = 0.33


def overlaps(found: Sequence[Box], true: Sequence[Box]) -> np.ndarray:
    """Computes the intersection over union of each pair, (N, M)."""
    a, b = (np.array([(o.x0, o.y0, o.x1, o.y1) for o in boxes], float).reshape(-1, 4) for boxes in (found, true))
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def match_boxes(
    found: Sequence[Box], true: Sequence[Box], min_iou: float = MIN_IOU, by_class: bool = True
) -> list[tuple[int, int]]:
    """Matches boxes greedily, highest score first, each to the unmatched true box that it overlaps most.

    Returns index pairs (found, true).
    """
    shared = overlaps(found, true)
    if by_class:
        shared *= np.array([[f.kind == t.kind for t in true] for f in found], bool).reshape(shared.shape)
    pairs = []
    for index in sorted(range(len(found)), key=lambda i: -found[i].score):
        if len(true) and shared[index].max() > min_iou:
            partner = int(shared[index].argmax())
            pairs.append((index, partner))
            shared[:, partner] = 0
    return pairs


class BoxMetrics:
    """Accumulates boxes over images; computes metrics without classes and by class, and the confusion of classes."""

    def __init__(self, min_iou: float = MIN_IOU) -> None:
        self.min_iou = min_iou
        self.images: list[tuple[list[Box], list[Box]]] = []

    def update(self, found: Iterable[Box], true: Iterable[Box]) -> None:
        """Adds the boxes of one image."""
        self.images.append((list(found), list(true)))

    def compute(self) -> MetricResult:
        """Computes the metrics over all boxes.

        box_*: without classes. typed_*: the class must agree. macro_f1, map: means of the classes' F-scores and average
        precisions.
        """
        kinds = self.kinds()
        per_class = self.compute_by_class()
        values = {f"box_{key}": value for key, value in self._scores(by_class=False).items()}
        values |= {f"typed_{key}": value for key, value in self._scores(by_class=True).items() if key != "ap"}
        for name, key in (("macro_f1", "f1"), ("map", "ap")):
            known = [v for kind in kinds if (v := per_class[kind].values[key]) is not None]
            values[name] = float(np.mean(known)) if known else None
        counts = {"images": len(self.images)}
        counts |= {
            "true_boxes": sum(len(t) for _, t in self.images),
            "found_boxes": sum(len(f) for f, _ in self.images),
        }
        missing = {key: "there are no true boxes, or none was found" for key, value in values.items() if value is None}
        return MetricResult(values, missing, counts)

    def compute_by_class(self) -> dict[str, MetricResult]:
        """Computes precision, recall, f1 and ap of each class among the true boxes."""
        results = {}
        for kind in self.kinds():
            values = self._scores(by_class=True, kind=kind)
            counts = {
                "true_boxes": sum(t.kind == kind for _, true in self.images for t in true),
                "found_boxes": sum(f.kind == kind for found, _ in self.images for f in found),
            }
            missing = {key: "no box of this class was found" for key, value in values.items() if value is None}
            results[kind] = MetricResult(values, missing, counts)
        return results

    def confusion(self) -> dict[tuple[str | None, str | None], int]:
        """Counts pairs (true class, found class); None stands for a false or a missed box."""
        counts: dict[tuple[str | None, str | None], int] = {}
        for found, true in self.images:
            pairs = match_boxes(found, true, self.min_iou, by_class=False)
            kinds: list[tuple[str | None, str | None]] = [(true[j].kind, found[i].kind) for i, j in pairs]
            kinds += [(None, f.kind) for i, f in enumerate(found) if i not in {i for i, _ in pairs}]
            kinds += [(t.kind, None) for j, t in enumerate(true) if j not in {j for _, j in pairs}]
            for pair in kinds:
                counts[pair] = counts.get(pair, 0) + 1
        return counts

    def kinds(self) -> list[str]:
        return sorted({t.kind for _, true in self.images for t in true})

    def _scores(self, by_class: bool, kind: str | None = None) -> dict[str, float | None]:
        hits: list[bool] = []
        scores: list[float] = []
        total = 0
        for found, true in self.images:
            if kind is not None:
                found, true = ([b for b in boxes if b.kind == kind] for boxes in (found, true))
            matched = {i for i, _ in match_boxes(found, true, self.min_iou, by_class)}
            hits += [i in matched for i in range(len(found))]
            scores += [f.score for f in found]
            total += len(true)
        correct = sum(hits)
        return {
            "precision": correct / len(hits) if hits else None,
            "recall": correct / total if total else None,
            "f1": 2 * correct / (len(hits) + total) if total else None,
            "ap": _average_precision(np.array(scores), np.array(hits, bool), total) if total else None,
        }


def _average_precision(scores: np.ndarray, hits: np.ndarray, total: int) -> float:
    """Computes the area under the precision envelope over recall (Everingham et al., IJCV 2010, as of 2010).

    Boxes of equal score count together.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)[: len(scores)]
    correct, count = np.cumsum(hits[order])[last], np.arange(1, len(scores) + 1)[last]
    precision = np.maximum.accumulate((correct / count)[::-1])[::-1]
    return float((np.diff(correct, prepend=0) / total * precision).sum())
