import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from anomalib_lite.errors import UserError
from anomalib_lite.metrics import ImageMetrics, alarm_metrics
from anomalib_lite.metrics.image import IMAGE_METRICS, auroc, average_precision, image_metrics

DRAWS = {
    "continuous": lambda rng, n: rng.normal(size=n),
    "ties": lambda rng, n: rng.integers(0, 6, n).astype(float),
    "all equal": lambda rng, n: np.zeros(n),
    "negative and skewed": lambda rng, n: -np.exp(5 * rng.normal(size=n)),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_agrees_with_scikit_learn(draw):
    rng = np.random.default_rng(0)
    labels = rng.random(80) < 0.3
    scores = DRAWS[draw](rng, 80)
    values = image_metrics(scores, labels).values
    assert values["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert values["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert values["image_f1_max"] == pytest.approx(max(f1_score(labels, scores >= t) for t in scores), abs=1e-12)


def test_counts_beyond_32_bits():
    ok, nok = np.array([3, 1]) * 10**12, np.array([1, 3]) * 10**12
    assert auroc(ok, nok) == pytest.approx(0.75)
    assert average_precision(ok, nok) == pytest.approx(0.75 * 0.75 + 0.25 * 0.5)


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
    assert list(by_defect) == ["hole", "scratch", "unnamed"]
    used = slice(0, 40)  # OK, and scratches
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


@pytest.mark.parametrize(
    ("scores", "labels", "said"),
    [([1, np.nan], [0, 1], "1 of 2 .* finite"), ([1, np.inf], [0, 1], "finite"), ([1, 2], [0], "1 labels")],
)
def test_scores_that_are_no_numbers_and_labels_that_do_not_fit_are_refused(scores, labels, said):
    with pytest.raises(UserError, match=said):
        ImageMetrics().update(scores, labels)


def test_images_without_a_label_are_left_out_and_the_result_goes_into_json():
    metrics = ImageMetrics()
    metrics.update(torch.tensor([1.0, 2.0, 3.0, 4.0]), [0, 1, -1, None], [None, "a", None, "b"])
    result = metrics.compute()
    assert result.missing == {"images": "2 images without a label were left out"}
    assert list(metrics.compute_by_defect()) == ["a"]
    assert json.loads(json.dumps(result.values, allow_nan=False)) == result.values


@pytest.mark.parametrize(
    ("flagged", "labels", "rates", "missing"),
    [
        ([0, 0, 1, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1], (1 / 3, 3 / 4, 2 * 3 / (2 * 3 + 1 + 1)), {}),
        ([0, 1], [0, 0], (1 / 2, None, None), dict.fromkeys(("detection_rate", "f1"), "no NOK images")),
        ([0, 1], [1, 1], (None, 1 / 2, 2 / 3), {"false_alarm_rate": "no OK images"}),
    ],
)
def test_rates_of_what_is_flagged(flagged, labels, rates, missing):
    result = alarm_metrics(flagged, labels)
    assert list(result.values.values()) == pytest.approx(list(rates))
    assert result.missing == {f"image_{name}": reason for name, reason in missing.items()}
