"""Which images of a run a page shows, in which order, and what became of each."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from anomalib_lite.data.sample import Outcome, Sample

if TYPE_CHECKING:
    from anomalib_lite.scoring import Threshold  # with torch

MISTAKES = ("missed", "false alarm")
SHOWN = 120  # images on a page


def verdict(outcome: Outcome) -> str:
    """'missed', 'false alarm', 'found' or 'passed'; 'rejected' or 'accepted' where the truth is unknown."""
    if outcome.sample.label is None:
        return "rejected" if outcome.nok else "accepted"
    if outcome.sample.label:
        return "found" if outcome.nok else "missed"
    return "false alarm" if outcome.nok else "passed"


def kind(sample: Sample) -> str:
    """The group an image belongs to: its defect type, else 'OK', 'NOK' or 'unlabelled'."""
    if sample.label is None:
        return sample.defect or "unlabelled"
    return (sample.defect or "NOK") if sample.label else "OK"


def select_cases(outcomes: Sequence[Outcome], threshold: "Threshold", most: int = SHOWN) -> list[int]:
    """Indices of the images to show, in display order.

    All mistakes come first, the worst before: how far a score lies on the wrong side, as a ratio to its threshold.
    What room remains is spread evenly over the kinds of image, and within each over the range of its scores; these
    are ordered by falling score.
    """
    wrong = [verdict(outcome) in MISTAKES for outcome in outcomes]
    mistakes = [i for i, mistake in enumerate(wrong) if mistake]
    mistakes = sorted(mistakes, key=lambda i: (-_wrongness(outcomes[i], threshold), i))[:most]
    groups: dict[str, list[int]] = defaultdict(list)
    for i in sorted(range(len(outcomes)), key=lambda i: outcomes[i].score):
        if not wrong[i]:
            groups[kind(outcomes[i].sample)].append(i)
    rest = _spread(list(groups.values()), most - len(mistakes))
    return mistakes + sorted(rest, key=lambda i: (-outcomes[i].score, i))


def thin_out(outcomes: Sequence[Outcome], threshold: "Threshold", most: int = SHOWN) -> list[Outcome]:
    """The same outcomes, of which at most 2 * `most` keep their image, map and mask.

    Called after each batch, it bounds the memory of any number of images. The mistakes that a page will show keep
    theirs in any case; with more images than that, the spread of the others is one of those seen so far.
    """
    held = [i for i, outcome in enumerate(outcomes) if outcome.image is not None]
    if len(held) <= 2 * most:
        return list(outcomes)
    kept = {held[place] for place in select_cases([outcomes[i] for i in held], threshold, most)}
    thinned = list(outcomes)
    for i in set(held) - kept:
        thinned[i] = replace(outcomes[i], image=None, map=None, mask=None)
    return thinned


def _spread(groups: list[list[int]], room: int) -> list[int]:
    """Takes equal shares of the groups, what a small one leaves going to the others, evenly along each."""
    chosen: list[int] = []
    for done, group in enumerate(sorted(groups, key=len)):
        share = min(len(group), math.ceil((room - len(chosen)) / (len(groups) - done)))
        places = np.linspace(0, len(group) - 1, share).round().astype(int)
        chosen += [group[place] for place in places[::-1]]
    return chosen


def _wrongness(outcome: Outcome, threshold: "Threshold") -> float:
    """How far a mistake lies on the wrong side, as the logarithm of a ratio; larger is worse."""
    if math.isnan(outcome.score):
        return math.inf
    side = -1.0 if outcome.sample.label else 1.0
    ratio = outcome.score / max(threshold.of(outcome.sample.category).image, 1e-300)
    return side * math.log(max(ratio, 1e-300))
