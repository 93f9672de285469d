"""Selects and orders the images that a page shows, and names the outcome of each."""

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
    """Returns 'missed', 'false alarm', 'found' or 'passed'; 'rejected' or 'accepted' without a label."""
    words = {None: ("accepted", "rejected"), 0: ("passed", "false alarm"), 1: ("missed", "found")}
    return words[outcome.sample.label][bool(outcome.nok)]


def kind(sample: Sample) -> str:
    """Returns the group of an image: its defect type, else 'OK', 'NOK' or 'unlabelled'."""
    if sample.label is None:
        return sample.defect or "unlabelled"
    return (sample.defect or "NOK") if sample.label else "OK"


def select_cases(outcomes: Sequence[Outcome], threshold: "Threshold", most: int = SHOWN) -> list[int]:
    """Returns the indices of the images to show, in display order.

    Mistakes come first, the worst on top: the ratio of score and threshold tells how wrong a score is. The remaining
    places are divided evenly among the kinds of images, and within each kind spread over the range of scores; these
    images are sorted by descending score.
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
    """Drops image, map and mask of all but at most 2 * `most` outcomes.

    Called after each batch, this bounds the memory for any number of images. The mistakes that a page will show are
    always kept; the others are spread over the images so far.
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
    """Selects equally many from each group, evenly along it; places that a small group leaves go to larger ones."""
    chosen: list[int] = []
    for done, group in enumerate(sorted(groups, key=len)):
        share = min(len(group), math.ceil((room - len(chosen)) / (len(groups) - done)))
        places = np.linspace(0, len(group) - 1, share).round().astype(int)
        chosen += [group[place] for place in places[::-1]]
    return chosen


def _wrongness(outcome: Outcome, threshold: "Threshold") -> float:
    """Returns the log ratio of a mistake's score and threshold; larger is worse."""
    if math.isnan(outcome.score):
        return math.inf
    side = -1.0 if outcome.sample.label else 1.0
    ratio = outcome.score / max(threshold.of(outcome.sample.category).image, 1e-300)
    return side * math.log(max(ratio, 1e-300))
