import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from anomalib_lite.errors import UserError
from anomalib_lite.metrics import ALARM_METRICS, IMAGE_METRICS, ImageMetrics, alarm_metrics, image_metrics


@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_scikit_learn_and_the_threshold_reproduces_f1(ties):
    rng = np.random.default_rng(0)
    labels = rng.random(80) < 0.4
    scores = rng.normal(size=80) + labels
    scores = np.round(scores) if ties else scores
    values = image_metrics(scores, labels).values
    assert values["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert values["image_ap"] == pytest.approx(average_precision_score(labels, scores))
    assert values["image_f1_max"] == pytest.approx(max(f1_score(labels, scores >= t) for t in scores))
    threshold = values["image_f1_max_threshold"]
    assert values["image_f1_max"] == pytest.approx(f1_score(labels, scores > threshold))
    assert alarm_metrics(scores, labels, threshold).values["image_f1"] == values["image_f1_max"]


def test_threshold_lies_between_the_classes_also_where_they_are_neighbours_and_below_all_that_is_flagged():
    def threshold(scores, labels):
        return image_metrics(scores, labels).values["image_f1_max_threshold"]

    assert threshold([1.0, 2.0, 4.0, 5.0], [0, 0, 1, 1]) == 3.0
    low, high = 0.1, math.nextafter(0.1, 1)
    assert low <= threshold([low, high], [0, 1]) < high
    assert threshold([5.0, 1.0, 1.0], [0, 1, 1]) < 1.0


def test_by_defect_type_is_its_nok_images_against_all_ok_images():
    rng = np.random.default_rng(0)
    defects = [None] * 30 + ["scratch"] * 10 + ["hole"] * 5 + [None] * 3
    labels = np.array([0] * 30 + [1] * 18)
    scores = rng.normal(size=48) + labels
    metrics = ImageMetrics()
    for start in range(0, 48, 7):
        batch = slice(start, start + 7)
        metrics.update(torch.from_numpy(scores[batch]), torch.from_numpy(labels[batch]), defects[batch])
    by_defect = metrics.compute_by_defect()
    assert sorted(by_defect) == ["hole", "scratch", "unnamed"]
    used = [i for i, defect in enumerate(defects) if i < 30 or defect == "scratch"]
    assert by_defect["scratch"].values["image_auroc"] == pytest.approx(roc_auc_score(labels[used], scores[used]))
    assert by_defect["hole"].counts == {"ok_images": 30, "nok_images": 5}
    assert metrics.compute() == image_metrics(scores, labels)


@pytest.mark.parametrize(("labels", "kind"), [([0, 0], "NOK"), ([1, 1], "OK"), ([None, None], "NOK")])
def test_one_class_alone_gives_none_with_a_reason(labels, kind):
    metrics = ImageMetrics()
    metrics.update([1.0, 2.0], labels)
    result = metrics.compute()
    assert result.values == dict.fromkeys(IMAGE_METRICS)
    assert all(result.missing[name] == f"no {kind} images with a score" for name in IMAGE_METRICS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused_and_leave_nothing_behind(bad):
    metrics = ImageMetrics()
    with pytest.raises(UserError, match="finite"):
        metrics.update([1.0, bad], [0, 1])
    with pytest.raises(UserError, match="1 labels"):
        metrics.update([1.0, 2.0], [0])
    assert metrics.scores == []


def test_images_without_a_label_are_left_out_and_the_result_goes_into_json():
    metrics = ImageMetrics()
    metrics.update(torch.tensor([1.0, 2.0, 3.0, 4.0]), [0, 1, -1, None], [None, "a", None, "b"])
    result = metrics.compute()
    assert result.missing == {"images": "2 images without a label were left out"}
    assert list(metrics.compute_by_defect()) == ["a"]
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["values"] == result.values


def test_counts_what_is_strictly_above():
    result = alarm_metrics([1.0, 2.0, 3.0, 2.0, 3.0, 4.0, 5.0], [0, 0, 0, 1, 1, 1, 1], threshold=2.0)
    assert result.counts == {"ok_images": 3, "ok_flagged": 1, "nok_images": 4, "nok_flagged": 3}
    assert result.values == {
        "image_false_alarm_rate": pytest.approx(1 / 3),
        "image_detection_rate": 0.75,
        "image_f1": pytest.approx(2 * 3 / (2 * 3 + 1 + 1)),
    }
    assert result.missing == {}


@pytest.mark.parametrize(("labels", "present"), [([0, 0], "image_false_alarm_rate"), ([1, 1], "image_detection_rate")])
def test_one_class_alone_gives_its_own_rate(labels, present):
    result = alarm_metrics([1.0, 3.0], labels, 2.0)
    assert result.values[present] == 0.5
    assert set(result.missing) == {name for name in ALARM_METRICS if result.values[name] is None}
    assert set(alarm_metrics([], [], 1.0).missing) == set(ALARM_METRICS)
