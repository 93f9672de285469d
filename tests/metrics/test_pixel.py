from __future__ import annotations

import numpy as np
import pytest
import torch

from anomalib_lite.errors import UserError
from anomalib_lite.metrics import PIXEL_METRICS, PixelMetrics
from tests.metrics.oracles import anomaly_maps, blobs, exact_pixel_metrics

RESHAPES = {
    "as it is": lambda maps: maps,
    "to the power of 20": lambda maps: (maps / maps.max()) ** 20,
    "tiny": lambda maps: maps * np.float32(1e-30),
    "huge": lambda maps: maps * np.float32(1e30),
    "float16": lambda maps: maps.astype(np.float16).astype(np.float32),
    "bfloat16": lambda maps: torch.from_numpy(maps).bfloat16().float().numpy(),
    "256 levels": lambda maps: np.round(maps / maps.max() * 255),
    "three levels": lambda maps: np.round(maps / maps.max() * 2),
    "half zeros": lambda maps: np.maximum(maps - np.median(maps), 0),
    "constant": lambda maps: np.full_like(maps, 0.25),
    "all zero": np.zeros_like,
}


def measured(maps, masks, limit=0.3, **others):
    metrics = PixelMetrics(limit)
    metrics.update(maps, masks, **others)
    return metrics.compute()


@pytest.mark.parametrize("reshape", RESHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_exact_metrics(seed, reshape):
    rng = np.random.default_rng(seed)
    masks = blobs(rng)
    maps = RESHAPES[reshape](anomaly_maps(rng, masks)).astype(np.float32)
    result = measured(maps, masks)
    exact = exact_pixel_metrics(maps, masks)
    assert {name: result.values[name] for name in exact} == pytest.approx(exact, abs=1e-4)
    assert result.missing == {}


@pytest.mark.parametrize("seed", range(4))
def test_a_large_offset_costs_less_than_a_thousandth(seed):
    """All values share a thousand bins; average precision is never too high."""
    rng = np.random.default_rng(seed)
    masks = blobs(rng)
    maps = anomaly_maps(rng, masks) + 20
    result, exact = measured(maps, masks).values, exact_pixel_metrics(maps, masks)
    assert -1e-3 < result["pixel_ap"] - exact["pixel_ap"] <= 1e-12
    assert result["pixel_auroc"] == pytest.approx(exact["pixel_auroc"], abs=1e-4)
    assert result["aupro"] == pytest.approx(exact["aupro"], abs=1e-3)


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3, 1.0])
def test_aupro_is_cut_at_the_limit_by_interpolation(limit):
    rng = np.random.default_rng(3)
    masks = blobs(rng, count=6, size=24)
    maps = np.round(anomaly_maps(rng, masks), 1)  # few thresholds: the limit falls between two of them
    assert measured(maps, masks, limit).values["aupro"] == pytest.approx(
        exact_pixel_metrics(maps, masks, limit)["aupro"], abs=1e-6
    )


def test_known_answer():
    """Four OK pixels and two regions of one and two pixels."""
    maps = np.array([[[4, 0, 2, 2], [0, 3, 0, 1], [0, 0, 0, 0]]], np.float32)
    masks = np.zeros((1, 3, 4), bool)
    masks[0, 0, 0] = masks[0, 0, 2] = masks[0, 0, 3] = True
    # OK pixels: 3, 1 and seven zeros; defect pixels: 4 | 2, 2
    values = measured(maps, masks, limit=1.0).values
    assert values["pixel_auroc"] == pytest.approx((9 + 8 + 8) / 27)
    assert values["pixel_ap"] == pytest.approx((1 + 2 * 3 / 4) / 3)
    assert values["pixel_f1_max"] == pytest.approx(2 * 3 / (4 + 3))
    assert 1 < values["pixel_f1_max_threshold"] < 2 and (maps > values["pixel_f1_max_threshold"]).sum() == 4
    assert values["aupro"] == pytest.approx(0.5 / 9 + 8 / 9)


def test_a_region_counts_the_same_whatever_its_size():
    maps = np.zeros((2, 40, 40), np.float32)
    masks = np.zeros((2, 40, 40), bool)
    masks[0, :30, :30] = masks[0, 35, 35] = True  # 900 pixels missed, one found
    maps[0, 35, 35] = 1
    found = 0.5
    assert measured(maps, masks).values["aupro"] == pytest.approx(found + (1 - found) * 0.15)


def test_diagonal_neighbours_are_one_region():
    masks = np.zeros((1, 6, 6), bool)
    masks[0, [0, 1, 2], [0, 1, 2]] = masks[0, 5, 5] = True
    assert measured(np.ones((1, 6, 6), np.float32), masks).counts["regions"] == 2


def test_false_positive_rate_is_over_all_ok_pixels_good_images_included():
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 0, 0] = True
    maps = np.zeros((2, 10, 10), np.float32)
    maps[1] = 1  # every pixel of the good image ranks above the defect: the first 100 of 199 OK pixels
    assert measured(maps, masks).values["aupro"] == 0
    assert measured(maps, masks).counts["ok_pixels"] == 199


@pytest.mark.parametrize("seed", range(5))
def test_merging_parts_is_bit_for_bit_a_single_pass(seed):
    rng = np.random.default_rng(seed)
    masks = blobs(rng)
    maps = anomaly_maps(rng, masks)
    whole = PixelMetrics()
    whole.update(maps, masks)
    order, cut = rng.permutation(len(maps)), rng.integers(1, len(maps))
    left, right = PixelMetrics(), PixelMetrics()
    left.update(maps[order[:cut]], masks[order[:cut]])
    for index in order[cut:]:
        right.update(maps[index : index + 1], masks[index : index + 1])
    right.merge(left)
    assert np.array_equal(right.histograms, whole.histograms)
    assert right.compute() == whole.compute()


def test_memory_does_not_grow_with_the_images():
    metrics = PixelMetrics()
    before = metrics.histograms.nbytes, metrics.counts.nbytes
    for seed in range(20):
        metrics.update(np.random.default_rng(seed).random((4, 32, 32)), np.ones((4, 32, 32), bool))
    assert (metrics.histograms.nbytes, metrics.counts.nbytes) == before
    assert set(vars(metrics)) == {"limit", "histograms", "counts"}


def test_shapes_and_types_of_a_batch_do_not_matter():
    rng = np.random.default_rng(0)
    masks = blobs(rng, count=4)
    maps = anomaly_maps(rng, masks)
    plain = measured(maps, masks)
    assert measured(torch.from_numpy(maps)[:, None].requires_grad_(), torch.from_numpy(masks)[:, None]) == plain
    assert measured(maps.astype(np.float64), (masks * 255).astype(np.uint8)) == plain
    assert measured(maps[:, None], [*masks[:2], *torch.from_numpy(masks)[2:, None]]) == plain
    assert measured(np.asfortranarray(maps), masks) == plain
    assert measured(maps * -1.0 * -1.0, masks, labels=torch.tensor(masks.any(axis=(1, 2)))) == plain


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_halves_are_read_as_they_are(kind):
    maps = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(kind)
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    masks[0, :, :3] = True
    assert measured(maps, masks) == measured(maps.float(), masks)


def test_negative_zero_is_zero():
    masks = np.eye(4, dtype=bool)[None]
    assert measured(np.full((1, 4, 4), -0.0, np.float32), masks) == measured(np.zeros((1, 4, 4)), masks)


@pytest.mark.parametrize(
    ("bad", "word"),
    [(np.nan, "NaN"), (-np.nan, "NaN"), (np.inf, "infinite"), (-1e-30, "negative"), (-np.inf, "inf")],
)
def test_bad_maps_are_refused_and_leave_nothing_behind(bad, word):
    maps = np.ones((3, 4, 4), np.float32)
    maps[2, 1, 1] = bad
    metrics = PixelMetrics()
    with pytest.raises(UserError, match=word):
        metrics.update(maps, np.zeros((3, 4, 4), bool))
    assert not metrics.histograms.any() and not metrics.counts.any()


def test_nok_images_without_a_mask_are_left_out_and_counted():
    rng = np.random.default_rng(0)
    masks = blobs(rng, count=8)
    maps = anomaly_maps(rng, masks)
    labels = masks.any(axis=(1, 2)).astype(int).tolist()
    kept = measured(maps, masks, labels=labels)
    given = [mask if label else None for mask, label in zip(masks, labels, strict=True)]
    assert measured(maps, given, labels=labels) == kept  # good images need none
    assert measured(maps, given).counts["images_without_mask"] == labels.count(0)  # but unknown ones do
    extra = np.concatenate([maps, maps[-2:] * 9])
    result = measured(extra, [*given, None, np.zeros_like(masks[0])], labels=[*labels, 1, 1])
    assert result.values == kept.values
    assert result.counts["images_without_mask"] == 2
    assert "2 NOK or unlabelled images" in result.missing["images"]


@pytest.mark.parametrize(
    ("mask", "labels", "reason"),
    [
        (np.zeros((4, 4), bool), [0], "no defect pixels"),
        (np.ones((4, 4), bool), [1], "no OK pixels"),
        (None, [1], "1 NOK or unlabelled images without a mask"),
        (None, [None], "1 NOK or unlabelled images without a mask"),
    ],
)
def test_what_cannot_be_measured_is_none_with_a_reason(mask, labels, reason):
    result = measured(np.ones((1, 4, 4)), [mask], labels=labels)
    assert result.values == dict.fromkeys(PIXEL_METRICS)
    assert all(reason in result.missing[name] for name in PIXEL_METRICS)


def test_nothing_measured_yet():
    assert PixelMetrics().compute().missing["aupro"] == "no defect pixels"


@pytest.mark.parametrize(
    ("maps", "masks", "labels", "message"),
    [
        ((2, 3, 4, 4), (2, 1, 4, 4), None, "maps of a batch"),
        ((2, 4, 4), (2, 5, 4), None, "does not fit"),
        ((2, 4, 4), (1, 4, 4), None, "1 masks"),
        ((2, 4, 4), (2, 4, 4), [0], "1 labels"),
        ((2, 4, 4), (2, 4, 4), [1, 0], "labelled OK has defect pixels"),
    ],
)
def test_wrong_batches_are_refused(maps, masks, labels, message):
    with pytest.raises(UserError, match=message):
        measured(np.ones(maps), np.ones(masks, bool), labels=labels)


@pytest.mark.parametrize("limit", [0, -0.1, 1.5, float("nan")])
def test_limit_outside_its_range_is_refused(limit):
    with pytest.raises(UserError, match="limit"):
        PixelMetrics(limit)


def test_accumulators_of_different_limits_do_not_merge():
    with pytest.raises(ValueError, match="limits"):
        PixelMetrics(0.3).merge(PixelMetrics(0.05))
