from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.errors import UserError
from anomalib_lite.metrics import GroupedPixelMetrics, PixelMetrics
from tests.metrics.oracles import anomaly_maps, blobs, exact_pixel_metrics


def small_set():
    rng = np.random.default_rng(0)
    masks = blobs(rng, count=20)
    maps = anomaly_maps(rng, masks)
    defects = [None if not mask.any() else ("hole", "scratch")[i % 2] for i, mask in enumerate(masks)]
    return maps, masks, defects


def filled(maps, masks, defects, **others):
    metrics = GroupedPixelMetrics()
    metrics.update(maps, masks, defects=defects, **others)
    return metrics


def test_overall_is_the_ungrouped_metric():
    maps, masks, defects = small_set()
    plain = PixelMetrics()
    plain.update(maps, masks)
    assert filled(maps, masks, defects).compute() == plain.compute()


def test_a_type_is_measured_on_its_images_and_all_good_ones():
    maps, masks, defects = small_set()
    by_defect = filled(maps, masks, defects).compute_by_defect()
    assert list(by_defect) == ["hole", "scratch"]
    for name, result in by_defect.items():
        used = [i for i, defect in enumerate(defects) if defect in (None, name)]
        exact = exact_pixel_metrics(maps[used], masks[used])
        assert {key: result.values[key] for key in exact} == pytest.approx(exact, abs=1e-4)
        assert result.counts["ok_images"] == defects.count(None)


def test_merging_is_bit_for_bit_a_single_pass():
    maps, masks, defects = small_set()
    parts = [filled(maps[i : i + 3], masks[i : i + 3], defects[i : i + 3]) for i in (18, 6, 0, 12, 3, 9, 15)]
    total = parts[0]
    for part in parts[1:]:
        total.merge(part)
    whole = filled(maps, masks, defects)
    assert total.compute() == whole.compute()
    assert total.compute_by_defect() == whole.compute_by_defect()


def test_computing_leaves_the_counts_alone():
    metrics = filled(*small_set())
    assert metrics.compute() == metrics.compute()
    assert metrics.compute_by_defect() == metrics.compute_by_defect()


def test_a_type_without_masks_says_so_and_leaves_the_others_alone():
    maps, masks, defects = small_set()
    labels = [int(defect is not None) for defect in defects]
    given = [None if defect == "hole" else mask for mask, defect in zip(masks, defects, strict=True)]
    by_defect = filled(maps, given, defects, labels=labels).compute_by_defect()
    assert by_defect["hole"].values["aupro"] is None
    assert "without a mask" in by_defect["hole"].missing["aupro"]
    assert by_defect["scratch"] == filled(maps, masks, defects).compute_by_defect()["scratch"]


def test_defects_without_a_name_are_a_type_of_their_own():
    maps, masks, _ = small_set()
    assert list(filled(maps, masks, None).compute_by_defect()) == ["unnamed"]


def test_names_must_match_the_batch():
    maps, masks, defects = small_set()
    with pytest.raises(UserError, match="defect names"):
        filled(maps, masks, defects[:-1])
