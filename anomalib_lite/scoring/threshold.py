"""Thresholds from held-out OK images only, for a given false-alarm rate.

Split conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Angelopoulos and
Bates, "A Gentle Introduction to Conformal Prediction", 2021): the threshold is the ceil((n + 1)(1 - alpha))-th smallest
of n held-out scores, and an image is flagged if score > threshold.

Guarantee: if the held-out images and a new OK image are exchangeable (same product, camera and light; not used to fit
the detector), the new one is flagged with probability at most alpha, on average over draws of the held-out images. Ties
only lower that rate. For a given held-out set the rate is itself random: for continuous scores it follows Beta(n + 1 -
k, k), k being the rank of the threshold. The guarantee holds separately for the image threshold and the pixel
threshold, not for both at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anomalib_lite.errors import UserError


@dataclass(frozen=True)
class Threshold:
    """Image and pixel threshold with their guarantees.

    At most the promised share of OK images has any pixel above the pixel threshold. The thresholds of single products,
    `categories` by name, each come from their own held-out images; this one is of all and judges unknown categories.
    """

    image: float  # an image is NOK if its score > image
    pixel: float  # a pixel is anomalous if the map > pixel
    false_alarm_rate: float  # as requested
    n: int  # held-out OK images
    promised_rate: float  # upper bound of the probability that a new OK image is flagged, (n + 1 - rank) / (n + 1)
    interval: tuple[float, float]  # central 90 % interval of the rate of this very threshold
    note: str = ""  # which guarantee could not be given
    pixel_note: str = ""  # the part of `note` on a pixel threshold that does not follow the held-out images' rate
    given: bool = False  # whether it was set directly, instead of by the held-out images
    scores: tuple[float, ...] = ()  # of the held-out images, in ascending order, for `moved`
    maxima: tuple[float, ...] = ()  # likewise of their maps
    categories: Mapping[str, Threshold] = field(default_factory=dict)

    def of(self, category: str | None) -> Threshold:
        """Returns the threshold of a category, or this one if the category has none."""
        return self if category is None else self.categories.get(category, self)

    def nok(self, score: float) -> bool:
        """Whether an image is NOK; the only place that decides this. A NaN score is NOK."""
        return not score <= self.image

    def to_dict(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def summary(self) -> dict[str, Any]:
        """Like `to_dict`, without the held-out scores, the categories and what `note` holds already."""
        left_out = ("scores", "maxima", "categories", "pixel_note")
        return {name: value for name, value in self.to_dict().items() if name not in left_out}

    def with_pixel(self, pixel: float, note: str) -> Threshold:
        """Returns this threshold with a pixel threshold of another rule, which stays when the image threshold moves."""
        return dataclasses.replace(self.noted(note), pixel=pixel, pixel_note=note)

    def noted(self, text: str) -> Threshold:
        """Returns this threshold with a further sentence in its note."""
        return dataclasses.replace(self, note=f"{self.note}; {text}" if self.note else text)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Threshold:
        """Inverse of `to_dict`; numbers survive JSON exactly."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        fields["categories"] = {name: cls.from_dict(value) for name, value in values.get("categories", {}).items()}
        return cls(**fields)

    def moved(self, image: float | None = None, false_alarm_rate: float | None = None) -> Threshold:
        """Returns another threshold from the same held-out images: a given one, or that of another false-alarm rate.

        For a given threshold `promised_rate` is the estimate (1 + number of scores above it) / (n + 1), which is no
        guarantee if it was chosen by looking at images, and `interval` is that of Clopper and Pearson. The pixel
        threshold moves to the same rank, beyond all ranks in proportion, unless it has its own rule (`with_pixel`).
        Raises UserError for both arguments at once, and without held-out scores.
        """
        if image is None and false_alarm_rate is None:
            return self
        if image is not None and false_alarm_rate is not None:
            raise UserError("Set either threshold or false_alarm_rate, not both: one follows from the other.")
        if not self.scores:
            raise UserError("This run of an older version has no held-out scores: train it again.")
        if image is None:
            categories = {name: t.moved(false_alarm_rate=false_alarm_rate) for name, t in self.categories.items()}
            moved = threshold_from_ok(self.scores, self.maxima, float(false_alarm_rate or 0))
            moved = dataclasses.replace(moved, categories=categories)
            return moved.with_pixel(self.pixel, self.pixel_note) if self.pixel_note else moved
        if not math.isfinite(image):
            raise UserError(f"threshold must be a finite number, not {image}.")
        from scipy import stats  # takes half a second to import

        above = sum(score > image for score in self.scores)
        ends = stats.binomtest(above, self.n).proportion_ci(0.9)
        interval, rate = (float(ends.low), float(ends.high)), (1 + above) / (self.n + 1)
        pixel = _at_same_rank(image, self.scores, self.maxima)
        moved = dataclasses.replace(
            self, image=image, pixel=pixel, false_alarm_rate=rate, promised_rate=rate, interval=interval, note="",
            given=True, categories={},
        )  # fmt: skip
        return moved.with_pixel(self.pixel, self.pixel_note) if self.pixel_note else moved

    def in_words(self) -> str:
        """States the guarantee in one sentence."""
        low, high = (f"{100 * end:.3g} %" for end in self.interval)
        rate = f"{100 * self.promised_rate:.3g} %"
        bound = f"about {rate} (it was set directly, so nothing is guaranteed)" if self.given else f"at most {rate}"
        return (
            f"Threshold {self.image:.4g}: a new OK image is rejected with a probability of {bound}; nine times in "
            f"ten, {self.n} held-out ones give a rate between {low} and {high}.{f' {self.note}.' if self.note else ''}"
        )


def threshold_from_ok(
    image_scores: Iterable[float], pixel_maxima: Iterable[float], false_alarm_rate: float = 0.05
) -> Threshold:
    """Computes thresholds from the scores (n,) and the map maxima (n,) of n held-out OK images.

    With n < 1 / false_alarm_rate - 1 no finite threshold keeps the rate. Then the threshold is the largest score, which
    guarantees a rate of 1 / (n + 1), and `note` says so. Raises UserError without images, and for NaN.
    """
    from scipy import stats  # takes half a second to import

    scores, maxima = _ascending(image_scores, "score"), _ascending(pixel_maxima, "largest map pixel")
    n = len(scores)
    rank, note = conformal_rank(n, false_alarm_rate)
    low, high = stats.beta.ppf((0.05, 0.95), n + 1 - rank, rank).tolist()
    image, pixel, promised = scores[rank - 1], maxima[rank - 1], (n + 1 - rank) / (n + 1)
    return Threshold(image, pixel, false_alarm_rate, n, promised, (low, high), note, scores=scores, maxima=maxima)


def _at_same_rank(value: float, scores: Sequence[float], maxima: Sequence[float]) -> float:
    """Returns the value among the maxima that has the rank of `value` among the scores; both ascending."""
    for end in (0, -1):
        if (value <= scores[0]) if end == 0 else (value >= scores[-1]):
            return maxima[end] * value / scores[end] if scores[end] > 0 else value
    return float(np.interp(value, scores, maxima))


def conformal_rank(n: int, false_alarm_rate: float) -> tuple[int, str]:
    """Returns the threshold's rank (1 = smallest) among the held-out scores, and a note if n is too small."""
    if n < 1:
        raise UserError("The threshold needs held-out OK images, but the validation split has none: add some.")
    allowed = math.floor(round((n + 1) * false_alarm_rate, 9))  # rounded, because 0.29 * 100 is 28.999999999999996
    if allowed >= 1:
        return n + 1 - allowed, ""
    needed = math.ceil(round(1 / false_alarm_rate, 9)) - 1
    return n, (
        f"{n} held-out OK images are too few for a false-alarm rate of {false_alarm_rate:g}, which needs "
        f"{needed}: the threshold is their largest score, which promises 1/{n + 1} = {1 / (n + 1):.3g}"
    )


def _ascending(values: Iterable[float], what: str) -> tuple[float, ...]:
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    array = np.asarray(listed, np.float64)
    if bad := int((~np.isfinite(array)).sum()):
        raise UserError(
            f"The {what} of {bad} of {array.size} held-out OK images is not a finite number: the training "
            "has probably diverged; lower the learning rate."
        )
    return tuple(np.sort(array).tolist())
