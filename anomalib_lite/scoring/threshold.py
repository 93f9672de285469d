"""Thresholds from held-out OK images alone, for a stated false-alarm rate.

Split conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005;
Angelopoulos and Bates, "A Gentle Introduction to Conformal Prediction", 2021): of n held-out scores the
ceil((n + 1)(1 - alpha))-th smallest is the threshold, and an image is flagged where score > threshold.

What it promises: if the held-out images and a new OK image are exchangeable (same product, camera and light; held out
of everything the detector learned from), the new one is flagged with probability at most alpha, on average over draws
of the held-out images. Ties only lower that rate. For the one held-out set at hand the rate is itself random: Beta(n
+ 1 - k, k) distributed for continuous scores, k being the rank of the threshold. The promise holds for the image
threshold and for the pixel threshold each, not for both at once.
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
    """Image and pixel threshold, and what they promise.

    image: an image is NOK where its score > image. pixel: a pixel is anomalous where the map > pixel; at most the
    promised share of OK images has any such pixel. false_alarm_rate: as asked for. n: held-out OK images used.
    promised_rate: upper bound of the probability that a new OK image is flagged, (n + 1 - rank) / (n + 1). interval:
    central 90 % interval of the rate that this very threshold has. note: what could not be promised, or empty. given:
    by a person, not found from the held-out images. scores, maxima: of those images, in ascending order, to take
    another threshold by. categories: thresholds of a run's several products by name, each from its own held-out
    images; this one is of all together, and judges images of unknown category.
    """

    image: float
    pixel: float
    false_alarm_rate: float
    n: int
    promised_rate: float
    interval: tuple[float, float]
    note: str = ""
    given: bool = False
    scores: tuple[float, ...] = ()
    maxima: tuple[float, ...] = ()
    categories: Mapping[str, Threshold] = field(default_factory=dict)

    def of(self, category: str | None) -> Threshold:
        """That of a category; this one where there is none of its own."""
        return self if category is None else self.categories.get(category, self)

    def nok(self, score: float) -> bool:
        """The verdict on an image: the only place that gives one. A score that is no number is NOK."""
        return not score <= self.image

    def to_dict(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def summary(self) -> dict[str, Any]:
        """Without the held-out images' own numbers."""
        return {name: value for name, value in self.to_dict().items() if name not in ("scores", "maxima", "categories")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Threshold:
        """Inverse of to_dict; the numbers survive JSON exactly."""
        known: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        known["categories"] = {name: cls.from_dict(own) for name, own in values.get("categories", {}).items()}
        return cls(**known)

    def moved(self, image: float | None = None, false_alarm_rate: float | None = None) -> Threshold:
        """Another threshold by the same held-out images: one that is given, or that of another false-alarm rate.

        A threshold that is given was not found from those images: `promised_rate` is then what they say of it, (1 +
        those above it) / (n + 1), which no theorem guarantees if it was chosen by looking at images, and `interval`
        that of Clopper and Pearson. The pixel threshold moves to the same rank; beyond all ranks in proportion.
        Errors: UserError for both at once, and where the run kept no such numbers.
        """
        if image is None and false_alarm_rate is None:
            return self
        if image is not None and false_alarm_rate is not None:
            raise UserError("Give either threshold or false_alarm_rate: one follows from the other.")
        if not self.scores:
            raise UserError("This run was trained by an older version and kept no held-out scores: train it again.")
        if image is None:
            own = {name: t.moved(false_alarm_rate=false_alarm_rate) for name, t in self.categories.items()}
            moved = threshold_from_ok(self.scores, self.maxima, float(false_alarm_rate or 0))
            return dataclasses.replace(moved, categories=own)
        if not math.isfinite(image):
            raise UserError(f"threshold must be a finite number, not {image}.")
        from scipy import stats  # takes half a second to import

        above = sum(score > image for score in self.scores)
        interval = stats.binomtest(above, self.n).proportion_ci(0.9)
        rate, pixel = (1 + above) / (self.n + 1), _at_same_rank(image, self.scores, self.maxima)
        return dataclasses.replace(
            self,
            image=image,
            pixel=pixel,
            false_alarm_rate=rate,
            promised_rate=rate,
            interval=(float(interval.low), float(interval.high)),
            note="",
            given=True,
            categories={},
        )

    def in_words(self) -> str:
        """What it promises, in one sentence."""
        low, high = (f"{100 * end:.3g} %" for end in self.interval)
        rate = f"{100 * self.promised_rate:.3g} %"
        says = f"about {rate} (it was given, so nothing is guaranteed)" if self.given else f"at most {rate}"
        return (
            f"Threshold {self.image:.4g}: a new OK image is rejected with a probability of {says}; nine times in "
            f"ten, {self.n} held-out ones give a rate between {low} and {high}.{f' {self.note}.' if self.note else ''}"
        )


def threshold_from_ok(
    image_scores: Iterable[float], pixel_maxima: Iterable[float], false_alarm_rate: float = 0.05
) -> Threshold:
    """Thresholds from the scores (n,) and the largest map pixels (n,) of n held-out OK images.

    With n < 1 / false_alarm_rate - 1 no finite threshold keeps the rate; then the largest score is taken, which
    promises a rate of 1 / (n + 1), and `note` says so. Raises UserError without images, and for NaN.
    """
    from scipy import stats  # takes half a second to import

    scores, maxima = _ascending(image_scores, "score"), _ascending(pixel_maxima, "largest map pixel")
    n = len(scores)
    rank, note = conformal_rank(n, false_alarm_rate)
    low, high = stats.beta.ppf((0.05, 0.95), n + 1 - rank, rank).tolist()
    return Threshold(
        image=scores[rank - 1],
        pixel=maxima[rank - 1],
        false_alarm_rate=false_alarm_rate,
        n=n,
        promised_rate=(n + 1 - rank) / (n + 1),
        interval=(low, high),
        note=note,
        scores=scores,
        maxima=maxima,
    )


def _at_same_rank(value: float, scores: Sequence[float], maxima: Sequence[float]) -> float:
    """What `value` is among the maxima, given what it is among the scores; both ascending."""
    for end in (0, -1):
        if (value <= scores[0]) if end == 0 else (value >= scores[-1]):
            return maxima[end] * value / scores[end] if scores[end] > 0 else value
    return float(np.interp(value, scores, maxima))


def conformal_rank(n: int, false_alarm_rate: float) -> tuple[int, str]:
    """Rank (1 = smallest) of the held-out score that is the threshold, and a note where n is too small."""
    if n < 1:
        raise UserError("A threshold needs held-out OK images, and there are none: give the validation split some.")
    allowed = math.floor(round((n + 1) * false_alarm_rate, 9))  # rounded: 0.29 * 100 is 28.999999999999996
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
