"""Thresholds from held-out OK images alone, for a stated false-alarm rate.

Split conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005;
Angelopoulos and Bates, "A Gentle Introduction to Conformal Prediction", 2021): of n held-out scores the
ceil((n + 1)(1 - alpha))-th smallest is the threshold, and an image is flagged where score > threshold.

What it promises: if the held-out images and a new OK image are exchangeable (same product, camera and light;
held out of everything the detector learned from), the new one is flagged with probability at most alpha, on
average over draws of the held-out images. Ties only lower that rate. For the one held-out set at hand the
rate is itself random: Beta(n + 1 - k, k) distributed for continuous scores, k being the rank of the
threshold. The promise holds for the image threshold and for the pixel threshold each, not for both at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from anomalib_lite.errors import UserError


@dataclass(frozen=True)
class Threshold:
    """Image and pixel threshold, and what they promise.

    image: an image is NOK where its score > image. pixel: a pixel is anomalous where the map > pixel; at most
    the promised share of OK images has any such pixel. false_alarm_rate: as asked for. n: held-out OK images
    used. promised_rate: upper bound of the probability that a new OK image is flagged, (n + 1 - rank) /
    (n + 1). interval: central 90 % interval of the rate that this very threshold has. note: what could not be
    promised, or empty.
    """

    image: float
    pixel: float
    false_alarm_rate: float
    n: int
    promised_rate: float
    interval: tuple[float, float]
    note: str = ""

    def nok(self, score: float) -> bool:
        """The verdict on an image: the only place that gives one. A score that is no number is NOK."""
        return not score <= self.image

    def to_dict(self) -> dict:
        return dataclasses.asdict(self) | {"interval": list(self.interval)}

    @classmethod
    def from_dict(cls, values: dict) -> Threshold:
        """Inverse of to_dict; the numbers survive JSON exactly."""
        return cls(**values | {"interval": tuple(values["interval"])})


def threshold_from_ok(
    image_scores: Iterable[float], pixel_maxima: Iterable[float], false_alarm_rate: float = 0.05
) -> Threshold:
    """Thresholds from the scores (n,) and the largest map pixels (n,) of n held-out OK images.

    With n < 1 / false_alarm_rate - 1 no finite threshold keeps the rate; then the largest score is taken,
    which promises a rate of 1 / (n + 1), and `note` says so. Raises UserError without images, for NaN, or for
    a rate outside (0, 1).
    """
    images, pixels = _checked(image_scores, "score"), _checked(pixel_maxima, "largest map pixel")
    if len(images) != len(pixels):
        raise ValueError(f"{len(images)} image scores came with {len(pixels)} largest map pixels")
    n = len(images)
    rank, note = conformal_rank(n, false_alarm_rate)
    from scipy import stats  # takes half a second to import

    low, high = stats.beta.ppf((0.05, 0.95), n + 1 - rank, rank)
    return Threshold(
        image=float(np.partition(images, rank - 1)[rank - 1]),
        pixel=float(np.partition(pixels, rank - 1)[rank - 1]),
        false_alarm_rate=false_alarm_rate,
        n=n,
        promised_rate=(n + 1 - rank) / (n + 1),
        interval=(float(low), float(high)),
        note=note,
    )


def conformal_rank(n: int, false_alarm_rate: float) -> tuple[int, str]:
    """Rank (1 = smallest) of the held-out score that is the threshold, and a note where n is too small."""
    if not 0 < false_alarm_rate < 1:
        raise UserError(f"The false-alarm rate must lie between 0 and 1, got {false_alarm_rate}.")
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


def _checked(values: Iterable[float], what: str) -> np.ndarray:
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    array = np.asarray(listed, np.float64)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise UserError(
            f"The {what} of {bad} of {array.size} held-out OK images is not a finite number: the training "
            "has probably diverged; lower the learning rate."
        )
    return array
