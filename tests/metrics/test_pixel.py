import numpy as np
import pytest
import torch

from anomalib_lite.errors import UserError
from anomalib_lite.metrics import PixelMetrics, pixel_f1
from anomalib_lite.metrics.pixel import PIXEL_METRICS, SPRO_LIMIT
from tests.metrics.oracles import anomaly_maps, blobs, exact_auspro, exact_pixel_metrics

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


def filled(maps, masks, limit=0.3, **others):
    metrics = PixelMetrics(limit)
    metrics.update(maps, masks, **others)
    return metrics


def measured(*arguments, **others):
    return filled(*arguments, **others).compute()


def drawn(seed=0, **shape):
    masks = blobs(rng := np.random.default_rng(seed), **shape)
    return anomaly_maps(rng, masks), masks


@pytest.mark.parametrize("reshape", RESHAPES)
def test_agrees_with_the_exact_metrics(reshape):
    maps, masks = drawn()
    maps = RESHAPES[reshape](maps).astype(np.float32)
    result = measured(maps, masks)
    exact = exact_pixel_metrics(maps, masks)
    assert {name: result.values[name] for name in exact} == pytest.approx(exact, abs=1e-4)
    assert result.missing == {}


def test_a_large_offset_costs_less_than_a_thousandth():
    """All values share a thousand bins; average precision is never too high."""
    maps, masks = drawn()
    maps = maps + 20
    result, exact = measured(maps, masks).values, exact_pixel_metrics(maps, masks)
    assert -1e-3 < result["pixel_ap"] - exact["pixel_ap"] <= 1e-12
    assert result["pixel_auroc"] == pytest.approx(exact["pixel_auroc"], abs=1e-4)
    assert result["aupro"] == pytest.approx(exact["aupro"], abs=1e-3)


def test_f1_at_a_fixed_threshold_counts_the_pixels_above_it():
    maps, masks = drawn()
    metrics, threshold = filled(maps, masks), float(np.median(maps[masks]))
    for limit, error in ((threshold, 1e-3), (-1.0, 1e-9)):
        flagged = maps > limit
        known = 2 * (flagged & masks).sum() / (flagged.sum() + masks.sum())
        assert pixel_f1([(metrics, limit)]) == pytest.approx(known, abs=error)
        assert pixel_f1([(metrics, limit), (filled(maps * 9, masks), limit * 9)]) == pytest.approx(known, abs=error)
    assert pixel_f1([(PixelMetrics(), 0.5)]) is None


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3, 1.0])
def test_aupro_is_cut_at_the_limit_by_interpolation(limit):
    maps, masks = drawn(3, count=6, size=24)
    maps = np.round(maps, 1)  # few thresholds: the limit falls between two of them
    exact = exact_pixel_metrics(maps, masks, limit)["aupro"]
    assert measured(maps, masks, limit).values["aupro"] == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("enough", [0.01, 0.3, 0.5, 1.0])
def test_saturated_overlap_agrees_with_the_exact_one_where_regions_overlap_and_fall_apart(enough):
    maps, masks = drawn(5, count=12, size=32)
    maps = np.round(maps, 1)
    regions = [[(mask, enough), (np.roll(mask, 3, 0), 1.0)] if mask.any() else [] for mask in masks]
    union = np.array([np.any([mask, *(r for r, _ in own)], 0) for mask, own in zip(masks, regions, strict=True)])
    pixels = [[(r, share * r.sum()) for r, share in own] for own in regions]
    values = measured(maps, union, regions=regions).values
    assert values["auspro"] == pytest.approx(exact_auspro(maps, pixels, SPRO_LIMIT), abs=1e-6)


def test_known_answer():
    """Four OK pixels and two regions of one and two pixels."""
    maps = np.array([[[4, 0, 2, 2], [0, 3, 0, 1], [0, 0, 0, 0]]], np.float32)
    masks = np.zeros((1, 3, 4), bool)
    masks[0, 0, 0] = masks[0, 0, 2] = masks[0, 0, 3] = True
    # OK pixels: 3, 1 and seven zeros; defect pixels: 4 | 2, 2
    values = [(9 + 8 + 8) / 27, (1 + 2 * 3 / 4) / 3, 2 * 3 / (4 + 3), 0.5 / 9 + 8 / 9]
    assert measured(maps, masks, 1.0).values == pytest.approx(dict(zip(PIXEL_METRICS, values, strict=True)))


def test_shapes_types_and_the_sign_of_zero_do_not_matter():
    maps, masks = drawn(count=4)
    plain = measured(maps, masks)
    assert measured(torch.from_numpy(maps)[:, None].requires_grad_(), torch.from_numpy(masks)[:, None]) == plain
    assert measured(maps.astype(np.float64), (masks * 255).astype(np.uint8)) == plain
    assert measured(maps[:, None], [*masks[:2], *torch.from_numpy(masks)[2:, None]]) == plain
    assert measured(np.asfortranarray(maps), masks) == plain
    assert measured(maps, masks, labels=torch.tensor(masks.any(axis=(1, 2)))) == plain
    half = torch.from_numpy(maps).bfloat16()
    assert measured(half, masks) == measured(half.float(), masks)
    assert measured(-0.0 * maps, masks) == measured(0 * maps, masks)


@pytest.mark.parametrize(
    ("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-1e-30, "negative"), (-np.inf, "infinite, 1 negative")]
)
def test_bad_maps_are_refused(bad, word):
    maps = np.ones((3, 4, 4), np.float32)
    maps[2, 1, 1] = bad
    with pytest.raises(UserError, match=f"1 {word}"):
        measured(maps, np.zeros((3, 4, 4), bool))


def test_nok_images_without_a_mask_are_left_out_and_counted():
    maps, masks = drawn(count=8)
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


MAPS, MASKS = drawn(count=20)
DEFECTS = [("hole", "scratch")[i % 2] if mask.any() else None for i, mask in enumerate(MASKS)]


def test_a_type_is_measured_on_its_images_and_all_good_ones():
    by_defect = filled(MAPS, MASKS, defects=DEFECTS).compute_by_defect()
    assert list(by_defect) == ["hole", "scratch"]
    for name, result in by_defect.items():
        used = [i for i, defect in enumerate(DEFECTS) if defect in (None, name)]
        exact = exact_pixel_metrics(MAPS[used], MASKS[used])
        assert {key: result.values[key] for key in exact} == pytest.approx(exact, abs=1e-4)
        assert result.counts["ok_images"] == DEFECTS.count(None)


def test_neither_order_nor_batches_nor_types_change_the_whole_and_memory_does_not_grow():
    parts = PixelMetrics()
    for i in (18, 6, 0, 12, 3, 9, 15):
        parts.update(MAPS[i : i + 3], MASKS[i : i + 3], defects=DEFECTS[i : i + 3])
    assert parts.compute() == measured(MAPS, MASKS) == parts.compute()
    assert parts.compute_by_defect() == filled(MAPS, MASKS, defects=DEFECTS).compute_by_defect()
    octaves = len(np.unique(np.frexp(MAPS)[1]))
    assert all(group.pixels.nbytes <= octaves << 17 for group in parts.groups.values())


def test_a_type_without_masks_says_so_and_leaves_the_others_alone():
    labels = [int(defect is not None) for defect in DEFECTS]
    given = [None if defect == "hole" else mask for mask, defect in zip(MASKS, DEFECTS, strict=True)]
    by_defect = filled(MAPS, given, defects=DEFECTS, labels=labels).compute_by_defect()
    assert by_defect["hole"].values["aupro"] is None
    assert "without a mask" in by_defect["hole"].missing["aupro"]
    assert by_defect["scratch"] == filled(MAPS, MASKS, defects=DEFECTS).compute_by_defect()["scratch"]
    assert list(filled(MAPS, MASKS).compute_by_defect()) == ["unnamed"]
    with pytest.raises(UserError, match="defect names"):
        filled(MAPS, MASKS, defects=DEFECTS[:-1])
