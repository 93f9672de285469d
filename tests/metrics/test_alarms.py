from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.metrics import (
    ALARM_METRICS,
    PIXEL_ALARM_METRICS,
    GroupedPixelMetrics,
    ImageMetrics,
    PixelMetrics,
    alarm_metrics,
)


def test_counts_what_is_strictly_above():
    result = alarm_metrics([1.0, 2.0, 3.0, 2.0, 3.0, 4.0, 5.0], [0, 0, 0, 1, 1, 1, 1], threshold=2.0)
    assert result.counts == {"ok_images": 3, "ok_flagged": 1, "nok_images": 4, "nok_flagged": 3}
    assert result.values == {
        "image_false_alarm_rate": pytest.approx(1 / 3),
        "image_detection_rate": 0.75,
        "image_f1": pytest.approx(2 * 3 / (2 * 3 + 1 + 1)),
    }
    assert result.missing == {}


def test_f1_at_the_best_threshold_is_f1_max():
    metrics = ImageMetrics()
    metrics.update([0.1, 0.4, 0.35, 0.8, 0.4], [0, 0, 1, 1, 1])
    best = metrics.compute().values
    assert metrics.compute_alarms(best["image_f1_max_threshold"]).values["image_f1"] == best["image_f1_max"]


@pytest.mark.parametrize(("labels", "present"), [([0, 0], "image_false_alarm_rate"), ([1, 1], "image_detection_rate")])
def test_one_class_alone_gives_its_own_rate(labels, present):
    result = alarm_metrics([1.0, 3.0], labels, 2.0)
    assert result.values[present] == 0.5
    assert set(result.missing) == {name for name in ALARM_METRICS if result.values[name] is None}


def test_no_images():
    assert set(ImageMetrics().compute_alarms(1.0).missing) == set(ALARM_METRICS)


def test_pixels_strictly_above_and_the_overlap_of_regions():
    maps = np.array([[[4, 0, 2, 2], [0, 3, 0, 1], [0, 0, 0, 0]]], np.float32)
    masks = np.zeros((1, 3, 4), bool)
    masks[0, 0, 0] = masks[0, 0, 2] = masks[0, 0, 3] = True  # regions of one pixel (4) and two (2, 2)
    metrics = GroupedPixelMetrics()
    metrics.update(maps, masks)
    at_two = metrics.compute_alarms(2.0)
    assert at_two.counts == {"ok_pixels": 9, "nok_pixels": 3, "ok_flagged": 1, "nok_flagged": 1}
    assert at_two.values == pytest.approx(
        {
            "pixel_false_alarm_rate": 1 / 9,
            "pixel_detection_rate": 1 / 3,
            "pixel_f1": 2 / 5,
            "region_overlap": 1 / 2,
        }
    )
    assert metrics.compute_alarms(1.99).values["region_overlap"] == 1
    assert metrics.compute_alarms(0.0).counts["ok_flagged"] == 2
    assert metrics.compute_alarms(-1.0).counts["ok_flagged"] == 9
    assert metrics.compute_alarms(float("inf")).counts["nok_flagged"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_pixel_f1_at_the_best_threshold_is_f1_max(seed):
    rng = np.random.default_rng(seed)
    maps, masks = rng.gamma(2, 1, (4, 16, 16)).astype(np.float32), rng.random((4, 16, 16)) < 0.2
    metrics = PixelMetrics()
    metrics.update(maps * (1 + masks), masks)
    best = metrics.compute().values
    assert metrics.compute_alarms(best["pixel_f1_max_threshold"]).values["pixel_f1"] == best["pixel_f1_max"]


def test_pixels_of_one_class_alone():
    metrics = PixelMetrics()
    metrics.update(np.ones((1, 2, 2)), [None], labels=[0])
    result = metrics.compute_alarms(0.5)
    assert result.values["pixel_false_alarm_rate"] == 1
    assert set(result.missing) == set(PIXEL_ALARM_METRICS) - {"pixel_false_alarm_rate"}
